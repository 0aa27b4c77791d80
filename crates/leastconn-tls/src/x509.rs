//! What certificates hold that both the configuration and the handshake look at.

pub mod constraints;
pub mod extensions;
pub mod key;
