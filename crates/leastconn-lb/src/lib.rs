//! The commands of the program `leastconn-lb`. A library only so that tests reach them.

pub mod cli;
pub(crate) mod figures;
pub mod pki;
pub mod sandbox;
pub mod summary;
pub mod top;
mod watchdog;
