//! Limits on connections: per client identity, and per source network.

mod clients;
mod sources;

pub use clients::ClientLimiters;
pub use sources::{SourceLimit, SourceRateExceeded};
