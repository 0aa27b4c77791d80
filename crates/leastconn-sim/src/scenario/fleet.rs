//! Several balancers that share their counts.

use std::time::Duration;

use leastconn::Balance;

use super::{SECOND, Scenario, Variants, servers, site};
use crate::{
    measure::Measure,
    site::Sharing,
    workload::{Hold, Process, Workload},
};

fn variants() -> Variants {
    let counts = |millis, has_echo| Sharing::Counts {
        every: Duration::from_millis(millis),
        has_echo,
    };
    let least = Balance::LeastConn;
    Variants::Sharing(vec![
        ("own counts", least, Sharing::OwnCounts),
        ("own counts, p2c", Balance::P2c, Sharing::OwnCounts),
        ("every 100 ms, no echo", least, counts(100, false)),
        ("every 500 ms, no echo", least, counts(500, false)),
        ("every 100 ms", least, counts(100, true)),
        ("every 500 ms", least, counts(500, true)),
    ])
}

pub(super) fn all() -> Vec<Scenario> {
    let mut equal = site(servers(8), 5 * SECOND, 35 * SECOND);
    equal.balancers = 3;
    let mut asymmetric = equal.clone();
    let all = || (0..8).collect();
    asymmetric.allowed = vec![(0..3).collect(), all(), all()];
    let mut few = site(servers(8), 10 * SECOND, 110 * SECOND);
    few.balancers = 8;
    let busy = Workload {
        initial: 0,
        process: Some(Process::Poisson { rate: 300.0 }),
        hold: Hold::Exponential(SECOND),
        sources: 1_000,
    };
    let long = Workload {
        initial: 24,
        process: Some(Process::Poisson { rate: 2.4 }),
        hold: Hold::Exponential(10 * SECOND),
        sources: 1_000,
    };
    let scenario = |name, summary, site, workload, runs| Scenario {
        name,
        summary,
        site,
        workload,
        measures: vec![Measure::PeakToMean],
        variants: variants(),
        runs,
    };
    vec![
        scenario(
            "fleet",
            "3 balancers, 8 servers; 300 connections per second at random times; exponential duration, mean 1 s",
            equal,
            busy,
            5,
        ),
        scenario(
            "fleet-allow",
            "as fleet, but the clients of one balancer may use only 3 of the 8 servers",
            asymmetric,
            busy,
            5,
        ),
        scenario(
            "fleet-few",
            "8 balancers, 8 servers; 24 connections that last 10 s on average and are replaced by new ones",
            few,
            long,
            20,
        ),
    ]
}
