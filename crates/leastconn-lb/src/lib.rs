//! The rooms of `leastconn-lb`, as a library so that tests, fuzz targets and
//! benches reach them. Not a public API: only the program is.

pub mod accept;
pub mod access_log;
pub mod admin;
pub mod api;
pub mod cli;
pub mod config;
pub mod connection;
pub mod descriptors;
pub mod identity;
pub mod judge;
pub mod listener;
pub mod live;
pub mod logging;
pub mod metrics;
pub mod pki;
pub mod policy;
pub mod presented;
pub mod proxy_protocol;
pub mod record;
pub mod reload;
pub mod running;
pub mod server;
pub mod shadow;
pub mod shared;
pub mod sockets;
pub mod source;
pub mod spiffe;
pub mod state;
pub mod sweep;
pub mod tls;
pub mod top;
pub mod turns;
pub mod upstream;
pub mod watch;
