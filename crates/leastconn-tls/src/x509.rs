//! X.509 code for the configuration check and for chain verification.

pub mod constraints;
pub mod extensions;
pub mod key;
