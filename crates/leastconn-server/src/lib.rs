//! The running balancer as a library: configuration, TLS, authorization, upstreams,
//! reload, upgrade and the admin side. The program `leastconn-lb` adds the commands.

pub mod admin;
pub mod api;
pub mod authorization;
pub mod blocks;
pub mod certificate_expiry;
pub mod connection;
pub mod context;
pub mod control;
#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod environment;
mod file_watch;
pub mod fleet;
pub mod handshake_scheduler;
pub mod limits;
pub mod logging;
pub mod memory;
pub mod overrides;
pub mod policy;
pub mod process;
pub mod reason_code;
mod rebalance;
pub mod registry;
pub mod reload;
pub mod server;
pub mod snapshot;
pub mod socket_file;
pub mod sockets;
pub mod starttls;
pub mod telemetry;
#[cfg(test)]
mod test_config;
pub mod upstream;

/// Entry point of the fuzz target `access_log`.
#[cfg(fuzzing)]
pub fn fuzz_access_log(texts: [&str; 4]) {
    connection::access_record::drive::drive(texts);
}

/// Entry point of the fuzz target `admin`.
#[cfg(fuzzing)]
pub fn fuzz_admin(kind: u8, input: &[u8]) {
    admin::drive::drive(kind, input);
}
