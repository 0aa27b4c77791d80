//! More connections than the servers accept.

use std::{num::NonZeroU32, time::Duration};

use leastconn::QueuePolicy;

use super::{SECOND, Scenario, Variants, servers, site};
use crate::{
    measure::Measure,
    site::Site,
    workload::{Hold, Workload},
};

fn full(queue: usize) -> Site {
    let mut site = site(servers(4), Duration::ZERO, 10 * SECOND);
    for server in &mut site.servers {
        server.max_conns = NonZeroU32::new(20);
    }
    site.policy.queue = QueuePolicy::new(queue, 5 * SECOND);
    site
}

pub(super) fn all() -> Vec<Scenario> {
    let scenario = |name, summary, site| Scenario {
        name,
        summary,
        site,
        workload: Workload {
            initial: 100,
            process: None,
            hold: Hold::Fixed(SECOND),
            sources: 1_000,
        },
        measures: vec![Measure::Refused, Measure::MostOpen, Measure::LongestWait],
        variants: Variants::Algorithms,
        runs: 1,
    };
    vec![
        scenario(
            "full",
            "4 servers with max_conns = 20; 100 connections of 1 s arrive at once",
            full(0),
        ),
        scenario(
            "full-queue",
            "as full, with queue = { size = 100, timeout = \"5s\" }",
            full(100),
        ),
    ]
}
