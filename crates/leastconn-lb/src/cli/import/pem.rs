//! Reads certificate files, if they exist on this machine.

use std::{fs, path::Path};

use leastconn_tls::certificate::spki;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// Whether a file can be read and contains a certificate, but no private key.
pub(crate) fn lacks_key(path: &Path) -> bool {
    fs::read_to_string(path)
        .is_ok_and(|text| text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY"))
}

/// Returns the common names and alternative DNS names of the first certificate in a file. Empty if the
/// file cannot be read.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let certificates = leastconn_config::read_certificates(path).unwrap_or_default();
    let Some((_, certificate)) = certificates
        .first()
        .and_then(|der| X509Certificate::from_der(der.as_ref()).ok())
    else {
        return Vec::new();
    };
    let common = certificate.subject().iter_common_name();
    let mut names: Vec<_> = common.filter_map(|name| name.as_str().ok()).collect();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        names.extend(
            alternative
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(*name),
                    _ => None,
                }),
        );
    }
    let mut names: Vec<_> = names.into_iter().map(str::to_ascii_lowercase).collect();
    names.sort();
    names.dedup();
    names
}

/// Returns the hexadecimal SHA-256 of the public key of each certificate in a file. `None` if the
/// file cannot be read.
pub(crate) fn key_pins(path: &Path) -> Option<Vec<String>> {
    let certificates = leastconn_config::read_certificates(path).ok()?;
    let pins = certificates.iter().map(|der| {
        let (_, certificate) = X509Certificate::from_der(der.as_ref()).ok()?;
        Some(spki(&certificate))
    });
    pins.collect()
}
