//! TLS towards clients and towards servers: what the `tls` of a listener or of an
//! upstream names, read and checked.
//!
//! A file that is missing, error_text or out of date is an error here and not a
//! surprise at the first handshake. There are no system roots: only what
//! `client_ca` or `ca` holds is trusted.

mod algorithms;
mod alpn;
mod crl_store;
mod crls;
mod expiry;
mod file;
mod file_error;
mod format;
mod inspect;
pub(crate) mod listener;
mod loader;
mod pem;
mod pins;
mod reload;
mod table;
pub(crate) mod upstream;

use std::{path::Path, sync::Arc};

use leastconn_tls::settings::{ClientSettings, ServerSettings};
use rustls::pki_types::CertificateDer;

pub use expiry::{CertificateFile, Dated, FileKind, Urgency};
pub use table::TlsTable;

/// `tls` of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub settings: ServerSettings,
    /// As it was written, to be read again.
    pub table: TlsTable,
    /// Every certificate file and CRL, for the metric.
    pub files: Arc<[CertificateFile]>,
}

/// `tls` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    pub settings: ClientSettings,
    /// As it was written, to be read again.
    pub table: TlsTable,
    /// Every certificate file and CRL, for the metric.
    pub files: Arc<[CertificateFile]>,
}

/// Reads the certificates of a PEM file, which may be a pipe; there is at least one.
/// Waits for the writer of a pipe: not for a running balancer.
///
/// # Errors
/// What is wrong, and what to do about it.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    match file::Pem::read_any(path, file_error::Wanted::Certificates) {
        Ok(pem) => Ok(pem.certificates),
        Err(error) => {
            let parts = [Some(error.message), error.help];
            Err(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
    }
}
