//! The built-in scenarios.

mod capacity;
mod failures;
mod fleet;
mod returning;
mod steady;

use std::time::Duration;

use leastconn::{Balance, Weight};

use crate::{
    measure::Measure,
    site::{Policy, ServerSetup, Sharing, Site},
    workload::Workload,
};

/// A situation that is simulated with several variants, usually all balancing algorithms.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name for `--only`.
    pub name: &'static str,
    /// One sentence: the servers, the load and the event.
    pub summary: &'static str,
    pub site: Site,
    pub workload: Workload,
    /// The columns of the table.
    pub measures: Vec<Measure>,
    /// The rows of the table.
    pub variants: Variants,
    /// Number of simulations, with different seeds, whose mean is reported.
    pub runs: u32,
}

/// What is compared in a scenario.
#[derive(Clone, Debug)]
pub enum Variants {
    Algorithms,
    /// Ways in which balancers share counts, with an algorithm and the name of the row.
    Sharing(Vec<(&'static str, Balance, Sharing)>),
}

pub fn all() -> Vec<Scenario> {
    [
        steady::all(),
        failures::all(),
        returning::all(),
        capacity::all(),
        fleet::all(),
    ]
    .concat()
}

const SECOND: Duration = Duration::from_secs(1);

/// `count` equal servers.
fn servers(count: usize) -> Vec<ServerSetup> {
    (1..=count)
        .map(|number| ServerSetup::new(format!("server{number}")))
        .collect()
}

/// Servers with these weights. Weights must be from 1 to 65,535; any other weight counts as 1.
fn weighted(weights: &[u32]) -> Vec<ServerSetup> {
    let mut servers = servers(weights.len());
    for (server, &weight) in servers.iter_mut().zip(weights) {
        server.weight = Weight::new(weight).unwrap_or_default();
    }
    servers
}

/// A site without failures and with default settings.
fn site(servers: Vec<ServerSetup>, warm_up: Duration, duration: Duration) -> Site {
    Site {
        servers,
        balancers: 1,
        allowed: Vec::new(),
        sharing: Sharing::OwnCounts,
        policy: Policy::default(),
        changes: Vec::new(),
        warm_up,
        duration,
        watched: None,
    }
}
