//! How evenly the algorithms spread connections over working servers.

use super::{SECOND, Scenario, Variants, servers, site, weighted};
use crate::{
    measure::Measure,
    workload::{Hold, Process, Workload},
};

const POISSON: Process = Process::Poisson { rate: 200.0 };

fn workload(process: Process, hold: Hold) -> Workload {
    Workload {
        initial: 0,
        process: Some(process),
        hold,
        sources: 1_000,
    }
}

pub(super) fn all() -> Vec<Scenario> {
    let even = || site(servers(8), 10 * SECOND, 60 * SECOND);
    let mut slow = even();
    slow.servers[0].slowness = 5.0;
    let weights = site(weighted(&[1, 2, 3, 4]), 10 * SECOND, 60 * SECOND);
    let exponential = Hold::Exponential(2 * SECOND);
    vec![
        Scenario {
            name: "steady",
            summary: "8 servers; 200 connections per second at random times; exponential duration, mean 2 s",
            site: even(),
            workload: workload(POISSON, exponential),
            measures: vec![Measure::PeakToMean],
            variants: Variants::Algorithms,
            runs: 5,
        },
        Scenario {
            name: "heavy-tail",
            summary: "as steady, but with a Pareto distribution of durations (shape 1.5): a few connections last very long",
            site: even(),
            workload: workload(
                POISSON,
                Hold::Pareto {
                    mean: 2 * SECOND,
                    shape: 1.5,
                },
            ),
            measures: vec![Measure::PeakToMean],
            variants: Variants::Algorithms,
            runs: 5,
        },
        Scenario {
            name: "bursts",
            summary: "8 servers; 100 connections at once, every 2 s; exponential duration, mean 2 s",
            site: even(),
            workload: workload(
                Process::Bursts {
                    size: 100,
                    every: 2 * SECOND,
                },
                exponential,
            ),
            measures: vec![Measure::PeakToMean],
            variants: Variants::Algorithms,
            runs: 5,
        },
        Scenario {
            name: "weights",
            summary: "4 servers of weights 1, 2, 3 and 4; load as steady",
            site: weights,
            workload: workload(POISSON, exponential),
            measures: vec![Measure::PeakToMean],
            variants: Variants::Algorithms,
            runs: 5,
        },
        Scenario {
            name: "slow-server",
            summary: "as steady, but connections last five times as long on one of the 8 servers",
            site: slow,
            workload: workload(POISSON, exponential),
            measures: vec![
                Measure::PeakToMean,
                Measure::ShareOf {
                    server: 0,
                    column: "new connections to the slow server",
                },
            ],
            variants: Variants::Algorithms,
            runs: 5,
        },
        several(
            "balancers",
            "3 balancers, each with its own counts, 8 servers; 48 connections that stay open",
            None,
        ),
        several(
            "balancers-churn",
            "as balancers, but the 48 connections last 10 s on average and are replaced by new ones",
            Some(Process::Poisson { rate: 4.8 }),
        ),
    ]
}

/// Three balancers. Each client chooses one of them at random.
fn several(name: &'static str, summary: &'static str, process: Option<Process>) -> Scenario {
    let hold = match process {
        None => Hold::Fixed(1_000 * SECOND),
        Some(_) => Hold::Exponential(10 * SECOND),
    };
    let mut site = site(servers(8), SECOND, 61 * SECOND);
    site.balancers = 3;
    Scenario {
        name,
        summary,
        site,
        workload: Workload {
            initial: 48,
            process,
            hold,
            sources: 1_000,
        },
        measures: vec![Measure::PeakToMean],
        variants: Variants::Algorithms,
        runs: 200,
    }
}
