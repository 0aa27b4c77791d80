//! Test setup: certificates, a configuration and a balancer that runs with it.

// With paths, because the browser tests include this file by its path.
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

pub(crate) use net::{client_hello, connect_from, listen, refused, reset, talk, tcp, wait_refused};
pub(crate) use running::Running;
pub(crate) use site::{
    Site, cn, entries, entry, many_clients, named_servers, refusing_address, spki,
};

/// The program under test.
pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_leastconn-lb");

/// `tls` of a listener, with the files that [`TestCa::write_set`] writes.
pub(crate) const TLS: &str =
    r#"tls = { cert = "server.crt", key = "server.key", client_ca = "ca.crt", crl = "ca.crl" }"#;

/// Without probes, each connection that a server counts comes from a client.
pub(crate) const NO_PROBES: &str = r#"health_check = { type = "none" }"#;

/// The common name that the rule of [`Site::usual`] matches.
pub(crate) const CLIENT1: &str = "client1.lb.com";

/// Maximum latency of the admin address. Only a release build (`make test-long`) must
/// keep the documented 100 ms.
pub(crate) const ADMIN_LATENCY: Duration = Duration::from_millis(100).saturating_add(DEBUG_SLACK);

/// Slack for every time limit in debug builds, which are slower and run in parallel with
/// other tests, possibly on a slow machine. A limit can only be told apart from timeouts
/// that are longer than the limit and this slack.
pub(crate) const DEBUG_SLACK: Duration =
    Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 0 });

/// Time to load changed files: less than the polling interval of ten seconds, so that
/// only inotify can meet it.
pub(crate) const FILE_LOAD_TIME: Duration = Duration::from_secs(8);

/// A value of `[process] tls_records`.
pub(crate) type Records = &'static str;

/// Runs tests with each record layer, as clients must not see a difference. The module
/// names tell which one failed.
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
pub(crate) use both_record_layers;
