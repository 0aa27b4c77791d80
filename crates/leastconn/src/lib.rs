//! Least-connections load balancing for TCP.
//!
//! Each connection goes to the server with the fewest connections. The library enforces limits for
//! each client, picks a server and counts the connection on it before dialling. If the server does
//! not answer, another server is tried. Once connected, bytes are relayed in both directions. The
//! library also tracks the health of the servers. It does not support TLS or configuration files;
//! the program `leastconn-lb` adds both.
//!
//! # A load balancer
#![cfg_attr(feature = "tokio", doc = "```no_run")]
#![cfg_attr(not(feature = "tokio"), doc = "```ignore")]
//! use std::{num::NonZeroU32, sync::Arc};
//!
//! use leastconn::{Address, Balancer, ClientId, Limits, RateLimit, Selector, ServerSpec};
//! use tokio::net::TcpListener;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Each client may open 20 connections per second, in bursts of up to 20, and have 100 open.
//!     let limits = Limits::default()
//!         .rate(RateLimit::new(20.0, const { NonZeroU32::new(20).unwrap() }))
//!         .max_conns(NonZeroU32::new(100));
//!     let balancer = Balancer::builder("web")
//!         .server(ServerSpec::new("web1", "10.0.0.1:80".parse::<Address>()?))
//!         .server(ServerSpec::new("web2", "web2.internal:80".parse::<Address>()?))
//!         .limits(limits)
//!         .build()?;
//!     let balancer = Arc::new(balancer);
//!
//!     let listener = TcpListener::bind("0.0.0.0:8080").await?;
//!     loop {
//!         let (connection, peer) = listener.accept().await?;
//!         let balancer = Arc::clone(&balancer);
//!         tokio::spawn(async move {
//!             let client = ClientId::from(peer.ip().to_string());
//!             match balancer.balance(connection, &client, &Selector::all()).await {
//!                 Ok(done) => println!("{client}: {} bytes from {}", done.sent, done.server),
//!                 Err(error) => println!("{client}: {error} ({})", error.reason()),
//!             }
//!         });
//!     }
//! }
//! ```
//!
//! # Parts
//!
//! [`Balancer`] consists of parts that can also be used on their own:
//!
//! | part | purpose |
//! |---|---|
//! | [`Pool`] | the servers of one upstream; [`Pool::pick`] chooses one by a [`Balance`] algorithm and counts the connection on it in one step |
//! | [`Lease`] | counts one connection on a server until it is dropped |
//! | [`Selector`], [`Candidates`], [`Tried`] | the servers that a client may use; those that are currently members; those that were already tried for a connection |
//! | [`Discover`] | a source of members, so that a pool can change while it is in use |
//! | [`Limiter`], [`Permit`] | enforces limits on each client's connection rate and concurrency, in bounded memory |
//! | [`health`] | decides when failed connects and probes take a server out of use, and when it returns |
//! | [`net::Connect`] | dials the picked server, and further servers if that fails |
//! | [`net::relay`](net::relay()) | relays bytes in both directions, with half-close, resets and timeouts |
//! | [`net::Checker`] | probes the servers |
//!
//! Outside `net` and [`Balancer`], the library uses no clock, no I/O and no tasks. The caller
//! passes the current time and a seed for random choices. Programs that have their own networking
//! code can use these parts on any runtime:
//!
//! ```
//! use std::time::Instant;
//!
//! use leastconn::{Address, Pool, ServerSpec, Tried};
//!
//! let pool = Pool::builder("web")
//!     .server(ServerSpec::new("a", "10.0.0.1:80".parse::<Address>()?))
//!     .server(ServerSpec::new("b", "10.0.0.2:80".parse::<Address>()?))
//!     .build()?;
//! let (all, now) = (pool.all(), Instant::now());
//!
//! let first = pool.pick(&all, &Tried::default(), now).expect("both are up");
//! let second = pool.pick(&all, &Tried::default(), now).expect("both are up");
//! assert_ne!(first.server().id(), second.server().id());
//!
//! // Connecting to the first server failed: record the failure and try another server.
//! first.server().connect_failed(now, now);
//! let mut tried = Tried::default();
//! tried.add(first);
//! let third = pool.pick(&all, &tried, now).expect("one is up");
//! assert_eq!(third.server().id(), second.server().id());
//! assert_eq!(third.server().in_flight(), 2);
//!
//! // A connection counts until its lease is dropped.
//! drop((second, third));
//! assert!(pool.members().iter().all(|member| member.server.in_flight() == 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Streams other than `TcpStream`, such as TLS streams, can be relayed if they implement
//! [`net::Stream`] or are wrapped in the adapter [`net::Foreign`].
//!
//! # Balancing algorithms
//!
//! The default algorithm is least connections, which is exact. [`Balance`] lists the alternatives.
//!
//! ```
//! use std::{
//!     net::IpAddr,
//!     time::{Duration, Instant},
//! };
//!
//! use leastconn::{Address, Balance, PickRequest, Pool, ServerSpec, Source};
//!
//! let pool = Pool::builder("web")
//!     .server(ServerSpec::new("a", "10.0.0.1:80".parse::<Address>()?))
//!     .server(ServerSpec::new("b", "10.0.0.2:80".parse::<Address>()?))
//!     .balance(Balance::SourceHash)
//!     // A recovered server reaches its whole share of connections after a minute.
//!     .slow_start(Duration::from_secs(60))
//!     .build()?;
//!
//! let source = Source::from("192.0.2.7".parse::<IpAddr>()?);
//! let request = PickRequest::new(Instant::now()).source(source);
//! let one = pool.pick_for(&pool.all(), &request).expect("both are up");
//! let two = pool.pick_for(&pool.all(), &request).expect("both are up");
//! assert_eq!(one.server().id(), two.server().id());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Errors and reasons
//!
//! Every refusal, error and end of a connection has a [`Reason`] with a stable code for logs
//! and metrics, for example `rate_limited`, `connect_failed`, `client_reset` or `ok`. The enum
//! covers only what this library decides; a program can include it in an enum of its own. If a
//! client is over its limit, its connection fails with a [`Refusal`]. If no server accepts the
//! connection, it fails with a [`ConnectError`](net::ConnectError).
//!
//! # Guarantees
//!
//! - Picking a server and counting the connection on it are one step. With least connections, the
//!   numbers of concurrent connections on equal servers never differ by more than one.
//! - A connection holds a lease from the moment its server is picked until the connection ends. It
//!   stops counting when the lease is dropped, even if a future is cancelled or a task panics.
//! - In each round of connection attempts, every server is tried at most once. The client does not
//!   notice the retries.
//! - Bytes are relayed in order and exactly once. The end of a direction is forwarded only after
//!   the sender has ended it, and only after all of the sender's bytes.
//! - A failed connection is reset, so that the peer does not mistake it for a complete one.
//! - A slow receiver applies backpressure to its sender. A connection buffers at most 128 KiB in
//!   each direction (256 KiB while splicing), and nothing while it is idle.
//! - If the balancer itself runs out of resources (file descriptors, memory, local ports), the
//!   health of the servers does not change.
//! - No `unsafe` code.
//!
//! # Cancel safety
//!
//! Every future may be dropped at any time. Its connections then no longer count. Incomplete
//! connections are reset, so that no peer mistakes them for complete ones. Dropping a
//! [`net::Checker`], or the [`Balancer`] that owns it, ends its probes.
//!
//! # Features
//!
//! - `tokio` (default): enables `net` and [`Balancer`], which run on Tokio. Without this feature,
//!   the library depends only on `arc-swap`, `parking_lot` and `thiserror`.
//!
//! Events, such as a server going down, are reported through `tracing`.
#![warn(missing_docs)]

mod address;
mod agent;
pub mod backoff;
mod balance;
#[cfg(feature = "tokio")]
mod balancer;
mod deadline;
mod discover;
pub mod health;
mod lease;
pub mod limit;
#[cfg(feature = "tokio")]
pub mod net;
mod one_shot;
mod pool;
mod reason;
mod server;
mod short_duration;
mod spec;
mod sync;
mod weight;

pub use address::{Address, AddressError};
pub use agent::{AgentReport, AgentState};
pub use balance::{Balance, Source};
#[cfg(feature = "tokio")]
pub use balancer::{BalanceError, Balancer, BalancerBuilder, Transfer, UnknownServer};
pub use discover::{Discover, StaticServers, follow};
pub use lease::Lease;
pub use limit::{
    Admission, Change, FleetUsage, Limiter, Limits, Pending, Permit, RateLimit, Refusal, Sharing,
    UsageReport,
};
pub use pool::{
    Candidates, Displaced, EnqueueError, Member, MembershipChange, PickRequest, Pool, PoolBuilder,
    PoolError, QueuePolicy, QueueStatus, Selector, Tried, Waiting,
};
pub use reason::Reason;
pub use server::{
    AgentChange, Failure, Outage, Server, ServerStatus, SlotGrant, SlotRequest, SlotSource,
    SlowStart,
};
pub use short_duration::ShortDuration;
pub use spec::{
    AdminState, ClientId, PanicPolicy, ServerId, ServerSpec, UpstreamId, Weight, ZoneId,
};
pub use weight::{ParseWeightError, WeightOverride};

/// Runs the example in the README as a documentation test.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
