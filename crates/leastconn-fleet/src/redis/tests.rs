//! Tests against real servers.

mod failures;
mod load;
mod permissions;
mod real;
mod same_as_memory;
mod topology;

use leastconn_testkit::{StoreKind, StoreOptions, StoreServer};
use tokio::runtime::Runtime;

use super::*;
use crate::cases::{self, Bench, settings};
use real::Real;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn redis(server: &StoreServer) -> Redis {
    let endpoint = Endpoint::Server(server.address().into());
    Redis::new(&settings(), RedisSettings::new(endpoint))
}

#[test]
fn cases_hold() {
    for kind in StoreKind::installed() {
        let real = Real::start(StoreOptions::new(kind));
        for (name, case) in cases::all() {
            println!("{kind}: {name}");
            case(&mut Bench::new(real.empty()));
        }
    }
}
