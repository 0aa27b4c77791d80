//! Metrics, access log and recent refusals.

pub mod access_log;
pub mod metrics;
pub mod refusals;
