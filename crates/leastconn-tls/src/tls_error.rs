//! The error of building a TLS configuration.

use crate::error_text;

/// rustls rejected the settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS: {}", error_text::error(.0))]
    Rustls(#[from] rustls::Error),
}
