//! What leastconn's own tests need: certificates of every kind, scriptable
//! upstreams, a TLS client, a faulty network, and the balancer as a child process.
//!
//! Ports are always 0 and addresses loopback. Nothing sleeps for a fixed time:
//! everything waits for an event, and gives up after a deadline. Everything that
//! waits is `async`, so that a test on a single-threaded runtime cannot starve the
//! upstream it waits for.
// A failure here is a failure of the test, and a panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod balancer;
pub mod client;
pub mod data;
pub mod fault;
pub mod metrics;
pub mod pki;
pub mod port;
pub mod proxy;
pub mod upstream;

pub use balancer::{Balancer, Signal};
pub use client::TlsClient;
pub use fault::{FaultProxy, Faults};
pub use pki::{Cert, TestCa};
pub use port::Port;
pub use tempfile::TempDir;
pub use upstream::{Behaviour, Upstream};

use std::future::Future;
use std::time::Duration;

/// How long anything may take that should happen at once. Generous, because the
/// machine may be slow and busy with other tests; only a failing test ever waits that
/// long. Where something else would happen by itself before that (the balancer looks at
/// its files every ten seconds), a test must not wait so long.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`, and panics with `what` if that takes longer than `limit`.
///
/// # Panics
/// When the limit is reached.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Asks `probe` again and again until it answers. For what announces nothing: another
/// process's file descriptors, say.
///
/// # Errors
/// What the probe last complained about, when `limit` is reached.
pub async fn eventually<T, F>(limit: Duration, mut probe: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let end = tokio::time::Instant::now() + limit;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(complaint) if tokio::time::Instant::now() >= end => {
                return Err(format!("not within {limit:?}: {complaint}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
