//! Metrics, access log and recent refusals.

pub mod access_log;
pub mod metrics;
pub mod refusals;

use access_log::AccessLog;
use metrics::Metrics;
use refusals::RecentRefusals;

#[derive(Debug)]
pub struct Telemetry {
    pub metrics: Metrics,
    pub access_log: AccessLog,
    pub refusals: RecentRefusals,
}

impl Telemetry {
    /// Creates telemetry with this access log, and with empty metrics and refusals.
    pub fn new(access_log: AccessLog) -> Self {
        Self {
            metrics: Metrics::new(),
            access_log,
            refusals: RecentRefusals::default(),
        }
    }
}
