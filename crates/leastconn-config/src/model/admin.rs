//! `[admin]`

use std::{fmt, net::SocketAddr, path::PathBuf};

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where the dashboard, metrics and health checks are served; if nowhere, there
    /// is a `socket`.
    pub bind: Option<SocketAddr>,
    /// The Unix socket for `ctl`.
    pub socket: Option<PathBuf>,
    /// What lets requests to `bind` change something; without it, none can.
    pub token: Option<Token>,
    /// Names that `bind` may be reached by, in lower case.
    pub hosts: Vec<String>,
}

/// A bearer token, as its SHA-256: what is not kept cannot be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// The token with this text.
    pub fn new(text: &[u8]) -> Self {
        Self(digest(text))
    }

    /// Whether this is its text. Takes the same time whatever it is.
    pub fn is(&self, text: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &digest(text)).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text);
    digest.copy_from_slice(hash.as_ref());
    digest
}
