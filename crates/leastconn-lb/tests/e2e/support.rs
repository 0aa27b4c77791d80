//! Test setup: certificates, a configuration and a balancer that runs with it.

// The modules have explicit paths, because the browser tests include this file by its path.
#[path = "support/net.rs"]
mod net;
#[path = "support/running.rs"]
mod running;
#[path = "support/site.rs"]
mod site;
#[path = "support/tls_servers.rs"]
pub(crate) mod tls_servers;
#[path = "support/upgrading.rs"]
pub(crate) mod upgrading;

use std::time::Duration;

pub(crate) use net::{
    client_hello, connect_from, connect_proxied, eventually_refused, listen, refused, reset, talk,
    tcp, wait_refused,
};
pub(crate) use running::Running;
pub(crate) use site::{
    Site, cn, entries, entry, many_clients, named_servers, refusing_address, spki,
};

/// The program under test.
pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_leastconn-lb");

/// Value of `tls` of a listener, with the files that [`TestCa::write_set`] writes.
pub(crate) const TLS: &str =
    r#"tls = { cert = "server.crt", key = "server.key", client_ca = "ca.crt", crl = "ca.crl" }"#;

/// Disables health checks, so that each connection that a server counts comes from a
/// client.
pub(crate) const NO_PROBES: &str = r#"health_check = { type = "none" }"#;

/// The common name that the rule of [`Site::usual`] matches.
pub(crate) const CLIENT1: &str = "client1.lb.com";

/// Maximum latency of the admin address. The documented limit of 100 ms applies only to
/// release builds (`make test-long`).
pub(crate) const ADMIN_LATENCY: Duration = Duration::from_millis(100).saturating_add(DEBUG_SLACK);

/// Extra time for every time limit in debug builds, which are slower and run in parallel
/// with other tests. Therefore a test can distinguish a limit from a timeout only if the
/// timeout exceeds the sum of the limit and this extra time.
pub(crate) const DEBUG_SLACK: Duration =
    Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 0 });

/// Maximum time to load changed files. It is less than the polling interval of ten seconds,
/// so that the test fails without inotify.
pub(crate) const FILE_LOAD_TIME: Duration = Duration::from_secs(8);

/// A value of `[process] tls_records`.
pub(crate) type Records = &'static str;

pub(crate) use leastconn_testkit::both_record_layers;
