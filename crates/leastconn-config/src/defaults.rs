//! Default values of keys, used by the schema and by the checks.

use std::time::Duration;

use super::duration;

pub(crate) const MAX_HANDSHAKES: u32 = 256;
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_hours(1);
pub(crate) const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) const MAX_INTERMEDIATES: u32 = 8;

pub(crate) const RESUMPTION_LIFETIME: Duration = Duration::from_hours(1);

pub(crate) const KEEPALIVE: Duration = Duration::from_secs(60);

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const RETRIES: u32 = 2;
pub(crate) const RETRY_FOR: Duration = Duration::from_secs(3);

pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) const HEALTH_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const RISE: u32 = 2;
pub(crate) const FALL: u32 = 3;
pub(crate) const HEALTH_PATH: &str = "/";
/// `rebalance`: multiple of the mean connections, percentage of connections, and quiet time.
pub(crate) const REBALANCE_ABOVE: f64 = 1.2;
pub(crate) const REBALANCE_MOST: &str = "1%";
pub(crate) const REBALANCE_QUIET: Duration = Duration::from_secs(5);
pub(crate) const HEALTH_USER: &str = "leastconn";

pub(crate) const MAX_FAILS: u32 = 1;
pub(crate) const MAX_EARLY: u32 = 5;
pub(crate) const FAIL_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const MAX_EJECTED: f64 = 0.5;

pub(crate) const DISCOVERY_REFRESH: Duration = Duration::from_secs(10);
/// A lower value of `refresh` is rejected.
pub(crate) const DISCOVERY_MIN_REFRESH: Duration = Duration::from_secs(1);
pub(crate) const DISCOVERY_HOLD: Duration = Duration::from_secs(30);
pub(crate) const DISCOVERY_MAX: u32 = 256;

pub(crate) const FLEET_SIZE: u32 = 2;
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(3);
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_millis(20);

/// Formats a duration in the notation of the schema.
pub(crate) fn text(duration: Duration) -> String {
    duration::text(duration)
}
