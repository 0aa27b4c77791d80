//! Reads certificate files, if they exist on this machine.

use std::{fs, path::Path};

use leastconn_tls::certificate::spki;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// Whether a file can be read and contains a certificate, but no private key.
pub(crate) fn lacks_key(path: &Path) -> bool {
    fs::read_to_string(path)
        .is_ok_and(|text| text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY"))
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
