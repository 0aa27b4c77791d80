//! Connecting, relaying and probing on Tokio.

pub mod connect;
pub mod probe;
pub mod relay;
pub(crate) mod resolve;
mod stream;

use std::time::Instant;

pub use connect::{ConnectError, ConnectPolicy, Connected, connect};
pub use probe::{Check, Checker, Probe};
pub use relay::{Timeouts, Traffic, relay};
pub use stream::Stream;

/// The monotonic clock: the one place that reads it.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the edge at which time enters"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// A random number that differs from call to call and run to run: for jitter
/// and for breaking ties, not for secrets.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
