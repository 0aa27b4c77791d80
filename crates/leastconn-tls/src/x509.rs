//! The parts of X.509 that both the configuration check and chain verification need.

pub mod constraints;
pub mod extensions;
pub mod key;
