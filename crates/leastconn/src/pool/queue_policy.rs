//! How many connections may wait for a server, and for how long.

use std::time::Duration;

/// How many connections may wait for a server, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuePolicy {
    /// Maximum number of waiting connections. With 0, which is the default, connections do not
    /// wait.
    pub size: usize,
    /// Maximum time that a connection waits. [`Connect`](crate::net::Connect) enforces it.
    pub timeout: Duration,
}

impl QueuePolicy {
    /// Allows `size` connections to wait for at most `timeout`.
    pub const fn new(size: usize, timeout: Duration) -> Self {
        Self { size, timeout }
    }
}

impl Default for QueuePolicy {
    fn default() -> Self {
        Self::new(0, Duration::from_secs(5))
    }
}
