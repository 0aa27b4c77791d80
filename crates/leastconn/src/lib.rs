//! Least-connections load balancing for TCP.
//!
//! A program that accepts connections gives each to the server that has the fewest,
//! and this library does the rest: it limits each client, counts before it dials, tries
//! the next server when one does not answer, carries the bytes both ways, and knows
//! which servers are well. It knows neither TLS nor configuration files; the program
//! `leastconn-lb` adds those.
//!
//! # A load balancer
#![cfg_attr(feature = "tokio", doc = "```no_run")]
#![cfg_attr(not(feature = "tokio"), doc = "```ignore")]
//! use std::{num::NonZeroU32, sync::Arc};
//!
//! use leastconn::{Address, Balancer, ClientId, Limits, RateLimit, ServerSpec};
//! use tokio::net::TcpListener;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Twenty new connections a second for each client, as many at once.
//!     let limits = Limits {
//!         rate: RateLimit::new(20.0, const { NonZeroU32::new(20).unwrap() }),
//!         max_conns: NonZeroU32::new(100),
//!     };
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
//!             let allowed = balancer.all();
//!             match balancer.balance(connection, &client, &allowed).await {
//!                 Ok(done) => println!("{client}: {} bytes from {}", done.sent, done.server),
//!                 Err(error) => println!("{client}: {error} ({})", error.reason()),
//!             }
//!         });
//!     }
//! }
//! ```
//!
//! # The pieces
//!
//! [`Balancer`] is made of parts that can be used alone:
//!
//! | part | does |
//! |---|---|
//! | [`Pool`] | holds the servers of one upstream; [`Pool::pick`] finds the least loaded one, or the one that another [`Balance`] chooses, and counts the connection on it, in one step |
//! | [`Lease`] | a connection's place on a server; the connection counts until it is dropped |
//! | [`Candidates`], [`Tried`] | the servers that a client may be given, and those that did not work for this connection |
//! | [`Limiter`], [`Permit`] | connections a second and at once, for each client, in bounded memory |
//! | [`health`] | when failed connects and probes take a server out, and when it comes back |
//! | [`net::connect`](net::connect()) | dials the server that was picked, or the next one |
//! | [`net::relay`](net::relay()) | carries bytes both ways, with half-close, resets and time-outs |
//! | [`net::Checker`] | probes the servers |
//!
//! All but `net` and [`Balancer`] have no clock, no I/O and no tasks: the time is an
//! argument, and what is random is drawn from a seed. They serve programs that do the
//! connecting themselves, on whatever runtime:
//!
//! ```
//! use std::time::Instant;
//!
//! use leastconn::{Address, Pool, ServerSpec, Tried, health::PassivePolicy};
//!
//! let servers = [
//!     ServerSpec::new("a", "10.0.0.1:80".parse::<Address>()?),
//!     ServerSpec::new("b", "10.0.0.2:80".parse::<Address>()?),
//! ];
//! let pool = Pool::builder("web").servers(servers).seed(42).build()?;
//! let (all, now) = (pool.all(), Instant::now());
//!
//! let first = pool.pick(&all, &Tried::default(), now).expect("both are up");
//! let second = pool.pick(&all, &Tried::default(), now).expect("both are up");
//! assert_ne!(first.server().id(), second.server().id());
//!
//! // Connecting to the first one failed: tell its health, and try another one.
//! first.server().connect_failed(now, now);
//! let mut tried = Tried::default();
//! tried.add(first);
//! let third = pool.pick(&all, &tried, now).expect("one is up");
//! assert_eq!(third.server().id(), second.server().id());
//! assert_eq!(third.server().in_flight(), 2);
//!
//! // A lease is its connection's place: dropping it gives the place back.
//! drop((second, third));
//! assert!(pool.members().iter().all(|member| member.server.in_flight() == 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Connections that are not a `TcpStream`, such as those over TLS, take part by
//! implementing [`net::Stream`]: bytes both ways, and a way to break off.
//!
//! # Other ways to choose
//!
//! Least connections is exact and the default. A pool can also choose the better of two
//! ([`Balance::P2c`]), in turn, at random, or by where a connection comes from:
//!
//! ```
//! use std::{net::IpAddr, time::{Duration, Instant}};
//!
//! use leastconn::{Address, Balance, Pool, ServerSpec, Tried, health::PassivePolicy};
//!
//! let servers = ["10.0.0.1:80", "10.0.0.2:80"].map(|text| {
//!     text.parse::<Address>().map(|address| ServerSpec::new(text, address))
//! });
//! let servers = servers.into_iter().collect::<Result<Vec<_>, _>>()?;
//! let pool = Pool::builder("web").servers(servers).seed(42).build()?
//!     .with_balance(Balance::SourceHash)
//!     // A server that came back has its whole share a minute later.
//!     .with_slow_start(Duration::from_secs(60));
//!
//! let from = pool.all().from_source("192.0.2.7".parse::<IpAddr>()?);
//! let one = pool.pick(&from, &Tried::default(), Instant::now()).expect("both are up");
//! let two = pool.pick(&from, &Tried::default(), Instant::now()).expect("both are up");
//! assert_eq!(one.server().id(), two.server().id());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Weights, `max_conns`, backups, health, draining and what a client may use hold for
//! all of them.
//!
//! # Why a connection ended
//!
//! Every refusal, error and end has a [`Reason`], whose code is the same in logs,
//! metrics and errors: `rate_limited`, `connect_failed`, `client_reset`, `ok`. A client
//! over its limit is a [`Refusal`], which is expected; that no server took a connection
//! is a [`ConnectError`](net::ConnectError).
//!
//! # What can be relied on
//!
//! - Picking and counting are one step. With least connections, any number of
//!   connections at once on equal servers never differ by more than one between two of
//!   them.
//! - The leases of a server are the connections being dialled or open on it. There is
//!   no call to forget: when the lease is dropped, by whatever way out, it is given back.
//! - A connection is tried on each server at most once, and the client does not notice.
//! - Bytes are carried in order, each once. A side is told that the other has finished
//!   sending only if it has, and only after all that it had sent.
//! - A connection that broke never looks like one that was complete: what was not told
//!   of an orderly end is reset.
//! - A slow reader stops its sender; a connection holds at most 128 KiB each way
//!   (256 KiB where it is spliced), and nothing while it is idle.
//! - What the balancer lacks (file descriptors, memory, local ports) is not held against
//!   a server.
//! - No `unsafe` code.
//!
//! # Cancel safety
//!
//! Every future here may be dropped at any time. What it had counted is given back, and
//! connections that were not done are broken off, so that neither side mistakes them for
//! complete. Dropping a [`net::Checker`], or the [`Balancer`] that has it, ends its
//! probes.
//!
//! # Features
//!
//! - `tokio` (default): `net` and [`Balancer`], on Tokio. Without it, the library depends
//!   on nothing but `thiserror`.
//!
//! Events, such as a server going down, are reported through `tracing`.
#![warn(missing_docs, rustdoc::private_intra_doc_links)]

mod address;
pub mod backoff;
mod balance;
#[cfg(feature = "tokio")]
mod balancer;
mod discover;
pub mod health;
mod lease;
pub mod limit;
#[cfg(feature = "tokio")]
pub mod net;
mod pool;
mod reason;
mod server;
mod short_duration;
mod spec;
mod sync;

pub use address::{Address, AddressError};
pub use balance::{Balance, Source};
#[cfg(feature = "tokio")]
pub use balancer::{BalanceError, Balancer, BalancerBuilder, Transfer, UnknownServer};
pub use discover::{Discover, StaticServers, follow};
pub use lease::Lease;
pub use limit::{Limiter, Limits, Permit, RateLimit, Refusal};
pub use pool::{
    Candidates, Member, MembershipChange, PickRequest, Pool, PoolBuilder, PoolError, Selector,
    Tried,
};
pub use reason::Reason;
pub use server::{Failure, Outage, Server, ServerStatus, SlowStart};
pub use short_duration::ShortDuration;
pub use spec::{AdminState, ClientId, PanicPolicy, ServerId, ServerSpec, UpstreamId, Weight};

/// So that the example in the README compiles.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
