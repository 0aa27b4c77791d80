//! Limits on the connections of each client identity and of each source network.

mod clients;
mod sources;

pub use clients::ClientLimiters;
pub use sources::{SourceLimit, SourceRateExceeded};
