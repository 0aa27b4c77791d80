//! The commands of the program `leastconn-lb`. This is a library crate so that tests can
//! call it.

pub mod cli;
pub(crate) mod figures;
pub mod pki;
pub mod sandbox;
pub mod summary;
#[cfg(feature = "top")]
pub mod top;
mod watchdog;
