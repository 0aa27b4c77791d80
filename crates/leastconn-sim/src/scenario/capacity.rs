//! More connections than the servers accept.

use std::num::NonZeroU32;

use super::{SECOND, Scenario, servers, site};
use crate::{
    measure::Measure,
    workload::{Hold, Workload},
};

pub(super) fn all() -> Vec<Scenario> {
    let mut full = site(servers(4), std::time::Duration::ZERO, 10 * SECOND);
    for server in &mut full.servers {
        server.max_conns = NonZeroU32::new(20);
    }
    vec![Scenario {
        name: "full",
        summary: "4 servers with max_conns = 20; 100 connections of 1 s arrive at once",
        site: full,
        workload: Workload {
            initial: 100,
            process: None,
            hold: Hold::Fixed(SECOND),
            sources: 1_000,
        },
        measures: vec![Measure::Refused, Measure::MostOpen, Measure::LongestWait],
        runs: 1,
    }]
}
