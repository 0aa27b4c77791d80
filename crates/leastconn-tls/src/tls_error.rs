//! The error of building a TLS configuration.

use crate::error_text;

/// Settings that rustls rejects although the configuration was checked.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS: {}", error_text::error(.0))]
    Rustls(#[from] rustls::Error),
}
