//! Reads PEM files, and CRLs in DER.

use std::{io, path::Path};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject,
};

use super::{
    file_error::{FileError, Wanted, quoted},
    format::{self, Der},
    pem::{self, Kind, Section},
};
use crate::{confinement, files};

/// Maximum file size in bytes. CRLs can be several megabytes long. Other files are smaller.
const LARGEST: u64 = 64 * 1024 * 1024;

/// The contents of a file: at least one item of the wanted kind.
#[derive(Default)]
pub(super) struct Pem {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
    /// The line of the first CRL.
    pub(super) first_crl: Option<usize>,
}

impl Pem {
    pub(super) fn read(path: &Path, wanted: Wanted) -> Result<Self, FileError> {
        let bytes = files::read(path, LARGEST).map(|contents| contents.bytes);
        Self::of(path, bytes, wanted)
    }

    /// Like [`Self::read`], but reads a file of any type. Blocks until the writer of a pipe closes
    /// it.
    pub(super) fn read_any(path: &Path, wanted: Wanted) -> Result<Self, FileError> {
        Self::of(path, files::read_any(path, LARGEST), wanted)
    }

    fn of(path: &Path, read: io::Result<Vec<u8>>, wanted: Wanted) -> Result<Self, FileError> {
        let bytes = read.map_err(|error| FileError {
            message: error.to_string(),
            note: Some(format!("the file is {}", absolute(path))),
            help: confinement::hint_for_reading(path, &error),
        })?;
        Self::parse(bytes, wanted, path)
    }

    pub(super) fn parse(
        mut bytes: Vec<u8>,
        wanted: Wanted,
        path: &Path,
    ) -> Result<Self, FileError> {
        let mut pem = Self::default();
        bytes.truncate(format::without_blanks_behind(&bytes).len());
        // Check for DER before PEM, because a certificate in DER may contain PEM text.
        match Der::of(&bytes) {
            // CRLs are also accepted in DER, because CAs publish them in this format.
            Some(Der::Crl) if wanted == Wanted::Crls => {
                pem.crls.push(bytes.into());
                return Ok(pem);
            }
            Some(_) => return Err(format::describe(&bytes, wanted, path)),
            None => {}
        }
        let text = pem::text(&bytes);
        if let Some(error) = format::partly_der(&bytes, text.is_some(), wanted, path) {
            return Err(error);
        }
        let Some(text) = text else {
            return Err(format::describe(&bytes, wanted, path));
        };
        for section in pem::sections(&text, &path.display().to_string())? {
            match section.kind {
                Kind::Certificate => pem.certificates.push(section.der.into()),
                Kind::Crl => {
                    pem.first_crl.get_or_insert(section.line);
                    pem.crls.push(section.der.into());
                }
                Kind::Key(kind) => pem.keys.extend(PrivateKeyDer::from_pem(kind, section.der)),
                Kind::EncryptedKey => return Err(encrypted(wanted, path, section.line)),
                Kind::OpenSshKey => return Err(openssh(&section, path)),
                Kind::Parameters => {}
            }
        }
        let count = match wanted {
            Wanted::Certificates => pem.certificates.len(),
            Wanted::Key => pem.keys.len(),
            Wanted::Crls => pem.crls.len(),
        };
        if count == 0 {
            return Err(pem.lacks(wanted));
        }
        Ok(pem)
    }

    /// The error for a file that has only PEM sections of other kinds.
    fn lacks(&self, wanted: Wanted) -> FileError {
        let holds = if !self.keys.is_empty() {
            "a private key"
        } else if !self.certificates.is_empty() {
            "certificates"
        } else if !self.crls.is_empty() {
            "a CRL"
        } else {
            "key parameters"
        };
        FileError::new(wanted.lacks()).help(format!("it contains {holds}: are two files mixed up?"))
    }
}

fn encrypted(wanted: Wanted, path: &Path, line: usize) -> FileError {
    let name = path.display().to_string();
    let from = quoted(&name);
    if wanted == Wanted::Key {
        let to = quoted(&format!("{name}.plain"));
        return FileError::new(format!("line {line}: the private key is encrypted"))
            .help(format!("decrypt it: `openssl pkey -in {from} -out {to}`"));
    }
    let to = quoted(&format!("{name}.pem"));
    FileError::new(format!(
        "line {line}: the file also contains an encrypted private key"
    ))
    .help(format!(
        "put the certificates into a separate file: `openssl crl2pkcs7 -nocrl -certfile \
             {from} | openssl pkcs7 -print_certs -out {to}`"
    ))
}

/// The error for a private key in OpenSSH format, with the command that converts it.
fn openssh(section: &Section, path: &Path) -> FileError {
    let name = path.display().to_string();
    let (from, to) = (quoted(&name), quoted(&format!("{name}.pem")));
    // The header contains the cipher and the key type. ssh-keygen converts all key types
    // except Ed25519. In an unencrypted Ed25519 key, the seed of 32 bytes is at a fixed
    // offset.
    let is_plain_ed25519 = section.der.get(15..23) == Some(b"\0\0\0\x04none")
        && section.der.get(47..58) == Some(b"ssh-ed25519");
    let command = if is_plain_ed25519 {
        const PKCS8: &str = r"\060\056\002\001\000\060\005\006\003\053\145\160\004\042\004\040";
        format!(
            "(printf '{PKCS8}'; sed '/-----/d' {from} | base64 -d | tail -c +162 | head -c 32) | \
             openssl pkey -inform DER -out {to}"
        )
    } else {
        format!("install -m 600 {from} {to} && ssh-keygen -p -m PKCS8 -N '' -f {to}")
    };
    FileError::new(format!(
        "line {}: this is a private key in OpenSSH format",
        section.line
    ))
    .help(format!("convert it: `{command}`"))
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

#[cfg(test)]
mod tests;
