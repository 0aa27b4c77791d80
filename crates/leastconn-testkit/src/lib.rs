//! Test support for leastconn: certificates, upstream servers, a TLS client, a faulty
//! network, and the balancer, Redis and Valkey as child processes.
//!
//! Everything binds to port 0 on loopback. Functions that wait for an event have a deadline
//! and do not sleep for a fixed time. They are `async`, so that a test on a single-threaded
//! runtime does not block the upstream that it waits for.
// Functions in this crate may panic, because only tests call them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod balancer;
pub mod client;
pub mod data;
pub mod fault;
pub mod metrics;
pub mod pki;
pub mod port;
pub mod program;
pub mod proxy;
pub mod store;
pub mod upstream;

pub use balancer::{Balancer, Signal, http_get};
pub use client::TlsClient;
pub use fault::{FaultProxy, Faults};
pub use pki::{Cert, TestCa};
pub use port::Port;
pub use program::find_program;
pub use store::{Reply, Sentinel, StoreKind, StoreOptions, StoreServer};
pub use tempfile::TempDir;
pub use upstream::{Behaviour, Upstream};

use std::future::Future;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// Runs each test with both of the balancer's record layers, because clients must not see a
/// difference. A test is an `async` function with one argument: the value of `[process]
/// tls_records`. The module name of a failed test shows the record layer.
#[macro_export]
macro_rules! both_record_layers {
    ($(#[$attribute:meta] $test:ident,)+) => {
        mod with_direct_records {
            $(#[$attribute] async fn $test() { super::$test("direct").await })+
        }
        mod with_rustls_records {
            $(#[$attribute] async fn $test() { super::$test("rustls").await })+
        }
    };
}

/// Default time limit for waiting. The limit is long, because the machine may be busy with
/// other tests. Only a failing test waits this long. Use a shorter limit if a timer of the
/// balancer would also cause the event. For example, the balancer polls its files every ten
/// seconds.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`.
///
/// # Panics
/// With `what` in the message, if `future` takes longer than `limit`.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Returns both ends of a TCP connection over loopback: the connecting end, then the accepting end.
///
/// # Panics
/// If the connection cannot be opened.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let open = async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let connecting = TcpStream::connect(listener.local_addr()?);
        let (connected, (accepted, _)) = tokio::try_join!(connecting, listener.accept())?;
        std::io::Result::Ok((connected, accepted))
    };
    open.await.expect("a TCP connection over loopback")
}

/// Calls `probe` every 10 ms until it returns `Ok`. Tests use this function for state that
/// causes no event, such as the file descriptors of another process.
///
/// # Errors
/// Returns the last error of `probe` when `limit` is reached.
pub async fn eventually<T, F>(limit: Duration, mut probe: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let end = tokio::time::Instant::now() + limit;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() >= end => {
                return Err(format!("not within {limit:?}: {error}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
