//! TLS towards clients and towards servers: what the `tls` of a listener or of an
//! upstream names, read and checked.
//!
//! A file that is missing, unfit or out of date is an error here and not a
//! surprise at the first handshake. There are no system roots: only what
//! `client_ca` or `ca` holds is trusted.

mod again;
mod algorithms;
mod alpn;
mod expiry;
mod file;
mod format;
mod inspect;
mod lists;
pub(crate) mod load;
mod pem;
pub(crate) mod upstream;

use std::{path::Path, sync::Arc};

use leastconn_tls::settings::{ClientSettings, ServerSettings};
use rustls::pki_types::CertificateDer;

pub use again::Written;
pub use expiry::{CertificateFile, Dated, FileKind, Urgency};

/// `tls` of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub settings: ServerSettings,
    /// As it was written, to be read again.
    pub written: Written,
    /// Every certificate file and CRL, for the metric.
    pub files: Arc<[CertificateFile]>,
}

/// `tls` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    pub settings: ClientSettings,
    /// As it was written, to be read again.
    pub written: Written,
    /// Every certificate file and CRL, for the metric.
    pub files: Arc<[CertificateFile]>,
}

/// Reads the certificates of a PEM file, which may be a pipe; there is at least one.
/// Waits for the writer of a pipe: not for a running balancer.
///
/// # Errors
/// What is wrong, and what to do about it.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    match file::Pem::read_any(path, file::Wanted::Certificates) {
        Ok(pem) => Ok(pem.certificates),
        Err(error) => {
            let parts = [Some(error.message), error.help];
            Err(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
    }
}
