//! Reads PEM files, and says in words what else it found.

use std::{io, path::Path};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject, SectionKind},
};

use crate::{confinement, files};

/// Revocation lists grow to some megabytes; nothing else comes near.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What a file should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Certificates,
    Key,
    Crls,
}

/// What a file holds. Of the wanted kind there is at least one.
#[derive(Default)]
pub(super) struct Pem {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
}

/// Why a file is of no use.
pub(super) struct FileError {
    pub(super) message: String,
    pub(super) note: Option<String>,
    pub(super) help: Option<String>,
}

impl FileError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            note: None,
            help: None,
        }
    }

    fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }
}

impl Pem {
    pub(super) fn read(path: &Path, wanted: Wanted) -> Result<Self, FileError> {
        let bytes = files::read(path, LARGEST).map(|contents| contents.bytes);
        Self::of(path, bytes, wanted)
    }

    /// As [`Self::read`], but from a file of any kind: waits for the writer of a pipe.
    pub(super) fn read_any(path: &Path, wanted: Wanted) -> Result<Self, FileError> {
        Self::of(path, files::read_any(path, LARGEST), wanted)
    }

    fn of(path: &Path, read: io::Result<Vec<u8>>, wanted: Wanted) -> Result<Self, FileError> {
        let bytes = read.map_err(|error| FileError {
            message: error.to_string(),
            note: Some(format!("the file is {}", absolute(path))),
            help: confinement::hint_for_reading(path, &error),
        })?;
        let pem = Self::parse(&bytes, wanted)?;
        let count = match wanted {
            Wanted::Certificates => pem.certificates.len(),
            Wanted::Key => pem.keys.len(),
            Wanted::Crls => pem.crls.len(),
        };
        if count == 0 {
            return Err(pem.lacks(wanted, &bytes, path));
        }
        Ok(pem)
    }

    fn parse(bytes: &[u8], wanted: Wanted) -> Result<Self, FileError> {
        let mut pem = Self::default();
        if contains(bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || contains(bytes, b"Proc-Type: 4,ENCRYPTED")
        {
            if wanted == Wanted::Key {
                return Err(FileError::new("the private key is encrypted")
                    .help("decrypt it: `openssl pkey -in ENCRYPTED.key -out PLAIN.key`"));
            }
            // Its base64 has headers, which would count as broken below.
            return Err(
                FileError::new("the file holds an encrypted private key too")
                    .help("put certificates and keys into files of their own"),
            );
        }
        // Authorities publish their lists in DER.
        if wanted == Wanted::Crls && bytes.starts_with(&[0x30]) {
            pem.crls.push(bytes.to_vec().into());
            return Ok(pem);
        }
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            let (kind, der) = section.map_err(|error| malformed(&error))?;
            match kind {
                SectionKind::Certificate => pem.certificates.push(der.into()),
                SectionKind::Crl => pem.crls.push(der.into()),
                _ => pem.keys.extend(PrivateKeyDer::from_pem(kind, der)),
            }
        }
        Ok(pem)
    }

    fn lacks(&self, wanted: Wanted, bytes: &[u8], path: &Path) -> FileError {
        let what = match wanted {
            Wanted::Certificates => "no certificate",
            Wanted::Key => "no private key",
            Wanted::Crls => "no revocation list",
        };
        let error = FileError::new(format!("there is {what} in it"));
        if bytes.is_empty() {
            return FileError::new("the file is empty");
        }
        if bytes.starts_with(&[0x30]) {
            let tool = match wanted {
                Wanted::Key => "pkey",
                _ => "x509",
            };
            let name = path.display();
            return error.help(format!(
                "it looks like DER: `openssl {tool} -inform DER -in {name} -out {name}.pem`"
            ));
        }
        match (
            wanted,
            self.certificates.is_empty(),
            self.keys.is_empty(),
            self.crls.is_empty(),
        ) {
            (Wanted::Certificates, _, false, _) => {
                error.help("it holds a private key: are two files mixed up?")
            }
            (Wanted::Key | Wanted::Crls, false, ..) => {
                error.help("it holds certificates: are two files mixed up?")
            }
            (_, _, _, false) => error.help("it holds a revocation list: are two files mixed up?"),
            _ => error.help("it must be in PEM form, with lines of `-----BEGIN`"),
        }
    }
}

/// What is wrong with the form of a file: the parser prints bytes as numbers. Nothing of
/// what is between its lines is told, which may be a key.
fn malformed(error: &pem::Error) -> FileError {
    let (why, help) = match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let is_label = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b' ');
            let whole = end_marker.len() <= 40 && end_marker.iter().all(is_label);
            if whole {
                let label = String::from_utf8_lossy(end_marker);
                (
                    format!("the line `-----END {label}-----` is missing"),
                    "the file is cut off: was it copied whole?",
                )
            } else {
                (
                    "a line that begins with `-----BEGIN` holds more than that".to_owned(),
                    "its lines are joined: was it copied with its line breaks?",
                )
            }
        }
        pem::Error::IllegalSectionStart { .. } => (
            "a line that begins with `-----BEGIN` does not end in `-----`".to_owned(),
            "was it copied with its line breaks?",
        ),
        pem::Error::Base64Decode(_) => (
            "what is between its lines of `-----` is not base64".to_owned(),
            "was it copied whole, and as text?",
        ),
        other => return FileError::new(format!("not well-formed PEM: {other}")),
    };
    FileError::new(format!("not well-formed PEM: {why}")).help(help)
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
