//! Connecting, relaying and probing, based on Tokio.

mod agent;
pub mod connect;
mod connect_fault;
mod departure;
mod foreign;
mod keepalive;
mod member_tasks;
mod outstanding;
mod prepare;
pub mod probe;
pub mod relay;
mod resolve;
mod stream;
mod unix;

use std::time::{Duration, Instant};

use crate::backoff::share;

pub use agent::{AgentCheck, AgentChecker};
pub use connect::{Attempts, Connect, ConnectError, ConnectPolicy, Connected, connect};
pub use departure::{Departed, departed};
pub use foreign::Foreign;
pub use keepalive::set_keepalive;
pub use prepare::{Plain, Prepare};
pub use probe::{Check, Checker, Probe};
pub use relay::{OnTruncation, RelayOutcome, RelayPolicy, Traffic, relay, relay_leased};
pub use stream::{Fault, Stream};
pub use unix::{connect_unix, from_unix};

/// Returns the monotonic time. The library reads the clock only through this function.
///
/// This is Tokio's clock, so it also stops when a test pauses Tokio's timers. With a different
/// clock, a timer could fire before it is due.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns a random number for jitter and for breaking ties. It differs between calls and between
/// processes, but is not suitable for secrets.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// Varies `interval` by up to 10 % in either direction, so that the checks of many servers do not
/// start at the same time.
fn jittered(interval: Duration, random: u64) -> Duration {
    interval - interval / 10 + share(interval / 5, random)
}
