//! Servers that fail while they look idle.

use super::{SECOND, Scenario, Variants, servers, site};
use crate::{
    measure::Measure,
    site::{Change, Check, Condition, Site, TimedChange},
    workload::{Hold, Process, Workload},
};
use leastconn::health::ActivePolicy;
use std::num::NonZeroU32;

const FAILED: usize = 0;

const WORKLOAD: Workload = Workload {
    initial: 0,
    process: Some(Process::Poisson { rate: 200.0 }),
    hold: Hold::Exponential(SECOND),
    sources: 1_000,
};

/// Four servers, the first of which changes its condition after five seconds. Measuring starts one
/// second later.
fn failing(condition: Condition) -> Site {
    let mut site = site(servers(4), 6 * SECOND, 30 * SECOND);
    site.changes = vec![TimedChange {
        at: 5 * SECOND,
        server: FAILED,
        change: Change::Condition(condition),
    }];
    site
}

fn check(expects_answer: bool) -> Check {
    let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    Check {
        interval: SECOND,
        timeout: SECOND,
        expects_answer,
        policy: ActivePolicy::new(number(2), number(3)),
    }
}

pub(super) fn all() -> Vec<Scenario> {
    let share = Measure::ShareOf {
        server: FAILED,
        column: "accepted by the failed server",
    };
    let mut checked = failing(Condition::ClosingAtOnce);
    checked.policy.check = Some(check(false));
    let mut not_ejected = failing(Condition::ClosingAtOnce);
    not_ejected.policy.passive.max_early = 0;
    let mut frozen = failing(Condition::Frozen);
    frozen.policy.check = Some(check(true));
    frozen.warm_up = 5 * SECOND;
    let scenario = |name, summary, site, measures| Scenario {
        name,
        summary,
        site,
        workload: WORKLOAD,
        measures,
        variants: Variants::Algorithms,
        runs: 5,
    };
    vec![
        scenario(
            "closes-at-once",
            "4 servers, 200 connections per second of 1 s; one server starts to close every connection at once",
            failing(Condition::ClosingAtOnce),
            vec![share, Measure::Failed],
        ),
        scenario(
            "closes-at-once-checked",
            "as closes-at-once, with health checks that only connect, every 1 s",
            checked,
            vec![share, Measure::Failed],
        ),
        scenario(
            "closes-at-once-max-early-0",
            "as closes-at-once, with passive = { max_early = 0 }: early failures do not eject the server",
            not_ejected,
            vec![share, Measure::Failed],
        ),
        scenario(
            "refuses",
            "as closes-at-once, but the server refuses connections",
            failing(Condition::Refusing),
            vec![share, Measure::Failed, Measure::LongestWait],
        ),
        scenario(
            "unreachable",
            "as closes-at-once, but connects to the server time out after 5 s",
            failing(Condition::Unreachable),
            vec![share, Measure::Failed, Measure::LongestWait],
        ),
        scenario(
            "frozen",
            "as closes-at-once, but the server accepts connections and never answers; health checks expect an answer, every 1 s",
            frozen,
            vec![share, Measure::Failed],
        ),
    ]
}
