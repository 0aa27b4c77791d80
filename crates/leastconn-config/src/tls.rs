//! Loads and checks the `tls` tables of listeners and upstreams.
//!
//! Missing, invalid and expired files are reported when the configuration is loaded, not at
//! the first handshake. Only the CAs in `client_ca` and `ca` are trusted. The trust store of
//! the operating system is never used.

mod algorithms;
mod alpn;
mod crl_store;
mod crls;
#[cfg(any(test, fuzzing))]
pub(crate) mod drive;
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub settings: ServerSettings,
    /// The table as written, kept so that its files can be loaded again.
    pub table: TlsTable,
    /// All certificate and CRL files, for metrics.
    pub files: Arc<[CertificateFile]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    pub settings: ClientSettings,
    /// The table as written, kept so that its files can be loaded again.
    pub table: TlsTable,
    /// All certificate and CRL files, for metrics.
    pub files: Arc<[CertificateFile]>,
}

/// Reads the certificates of a PEM file, which may be a pipe. The result is not empty.
/// Blocks until the writer of a pipe closes it, so a running balancer must not call this
/// function.
///
/// # Errors
/// Returns a message with help.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    match file::Pem::read_any(path, file_error::Wanted::Certificates) {
        Ok(pem) => Ok(pem.certificates),
        Err(error) => {
            let parts = [Some(error.message), error.help];
            Err(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
    }
}
