//! A server that returns or is added while the other servers have many connections.

use std::time::Duration;

use super::{SECOND, Scenario, Variants, servers, site};
use crate::{
    measure::Measure,
    site::{Change, Condition, Site, TimedChange, Watched},
    workload::{Hold, Process, Workload},
};

const RETURNING: usize = 0;

/// 400 connections on average, which last 20 s on average. The exponential distribution has no
/// memory, so the initial connections are in the steady state from the start.
const WORKLOAD: Workload = Workload {
    initial: 400,
    process: Some(Process::Poisson { rate: 20.0 }),
    hold: Hold::Exponential(Duration::from_secs(20)),
    sources: 1_000,
};

fn measures() -> Vec<Measure> {
    vec![
        Measure::PeakRate,
        Measure::ShareAfter(5),
        Measure::ShareAfter(15),
        Measure::ShareAfter(30),
        Measure::Failed,
        Measure::Refused,
    ]
}

fn restart(slow_start: Duration) -> Site {
    let change = |at, change| TimedChange {
        at,
        server: RETURNING,
        change,
    };
    let mut site = site(servers(4), 10 * SECOND, 70 * SECOND);
    site.policy.slow_start = slow_start;
    site.changes = vec![
        change(10 * SECOND, Change::Crash),
        change(12 * SECOND, Change::Condition(Condition::Up)),
    ];
    site.watched = Some(Watched {
        server: RETURNING,
        from: 12 * SECOND,
    });
    site
}

fn join(slow_start: Duration) -> Site {
    let mut site = site(servers(4), 10 * SECOND, 60 * SECOND);
    site.servers[RETURNING].is_member = false;
    site.policy.slow_start = slow_start;
    site.changes = vec![TimedChange {
        at: 10 * SECOND,
        server: RETURNING,
        change: Change::Join,
    }];
    site.watched = Some(Watched {
        server: RETURNING,
        from: 10 * SECOND,
    });
    site
}

pub(super) fn all() -> Vec<Scenario> {
    let scenario = |name, summary, site| Scenario {
        name,
        summary,
        site,
        workload: WORKLOAD,
        measures: measures(),
        variants: Variants::Algorithms,
        runs: 100,
    };
    vec![
        scenario(
            "restart",
            "4 servers with 400 connections of 20 s; one exits and runs again after 2 s",
            restart(Duration::ZERO),
        ),
        scenario(
            "restart-slow-start",
            "as restart, with slow_start = \"10s\"",
            restart(10 * SECOND),
        ),
        scenario(
            "join",
            "3 servers with 400 connections of 20 s; a fourth server is added",
            join(Duration::ZERO),
        ),
        scenario(
            "join-slow-start",
            "as join, with slow_start = \"10s\"",
            join(10 * SECOND),
        ),
    ]
}
