//! `[admin]`

use std::{fmt, net::SocketAddr, path::PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address of the dashboard, metrics and health checks. At least one of `bind` and
    /// `socket` is set.
    pub bind: Option<SocketAddr>,
    /// UNIX socket for `ctl`.
    pub socket: Option<PathBuf>,
    /// Token that requests to `bind` must send to change something. `None`: requests to
    /// `bind` cannot change anything.
    pub token: Option<Token>,
    /// Host names accepted in requests to `bind`, in lower case.
    pub hosts: Vec<String>,
}

/// The SHA-256 of a bearer token. The token itself is not kept, so it cannot leak into
/// logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    pub fn new(text: &[u8]) -> Self {
        Self(digest(text))
    }

    /// Whether `text` is the token. The comparison takes constant time.
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
