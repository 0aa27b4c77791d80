//! Invariants of parsing PEM files, for property tests and fuzzing.

use std::path::Path;

use super::{file::Pem, file_error::Wanted};

/// Parses a file that must contain certificates, a key or CRLs, depending on `wanted`. Checks that
/// each item has content, and that an error is printable.
pub(crate) fn pem(wanted: u8, bytes: &[u8]) {
    let wanted = match wanted % 3 {
        0 => Wanted::Certificates,
        1 => Wanted::Key,
        _ => Wanted::Crls,
    };
    match Pem::parse(bytes.to_vec(), wanted, Path::new("file.pem")) {
        Ok(pem) => {
            let count = match wanted {
                Wanted::Certificates => pem.certificates.len(),
                Wanted::Key => pem.keys.len(),
                Wanted::Crls => pem.crls.len(),
            };
            assert!(count > 0, "neither an item nor an error");
            let certificates = pem.certificates.iter().map(|der| der.len());
            let keys = pem.keys.iter().map(|key| key.secret_der().len());
            let crls = pem.crls.iter().map(|der| der.len());
            let lengths: Vec<_> = certificates.chain(keys).chain(crls).collect();
            assert!(!lengths.contains(&0), "an empty item");
            // Base64 is longer than what it encodes.
            assert!(lengths.iter().sum::<usize>() <= bytes.len());
        }
        Err(error) => {
            for text in [Some(error.message), error.note, error.help] {
                let text = text.unwrap_or_default();
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
        }
    }
}
