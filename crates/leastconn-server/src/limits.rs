//! Limits on connections: per client identity, and per source network.

pub mod clients;
pub mod sources;
