//! Connecting, relaying and probing on Tokio.

pub mod connect;
mod departure;
mod failure;
mod foreign;
mod keepalive;
mod outstanding;
mod prepare;
pub mod probe;
pub mod relay;
pub(crate) mod resolve;
mod stream;
mod unix;

use std::time::Instant;

pub use connect::{Attempts, Connect, ConnectError, ConnectPolicy, Connected, connect};
pub use departure::{Departed, departed};
pub use foreign::Foreign;
pub use keepalive::set_keepalive;
pub use prepare::{Plain, Prepare};
pub use probe::{Check, Checker, Probe};
pub use relay::{OnTruncation, RelayOutcome, RelayPolicy, Traffic, relay};
pub use stream::{Fault, Stream};
pub use unix::{connect_unix, from_unix};

/// The monotonic clock: the one place that reads it.
///
/// It is Tokio's, so that it stands still where a test pauses Tokio's timers:
/// with two clocks, a timer would fire at a time that has not come yet.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A random number that differs from call to call and run to run: for jitter
/// and for breaking ties, not for secrets.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
