//! Parts of X.509 that both the configuration and chain verification check.

pub mod constraints;
pub mod extensions;
pub mod key;
