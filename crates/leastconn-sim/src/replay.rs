//! Replay of access logs: how evenly the connections were spread, and how evenly each
//! balancing algorithm would have spread them.
//!
//! The replay assumes that a connection lasts the same time on every server, and that all servers
//! are up.

mod access_log;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use leastconn::{Balance, PoolError, Source};
use leastconn_config::Config;

use crate::{
    measure::Measure,
    meter::{Meter, Outcome},
    report::{Row, ScenarioReport},
    simulation::{ROUND_TRIP, simulate},
    site::{Policy, ServerSetup, Sharing, Site},
    workload::Arrival,
};
pub use access_log::{Connection, Log, LogError};

/// An error during a replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Config(leastconn_config::Problems),
    #[error("the access log has no connection to upstream `{0}`")]
    NoConnections(String),
    #[error("the configuration has no upstream `{0}`, which the access log names")]
    UnknownUpstream(String),
    #[error(
        "upstream `{0}` has only discovered servers in the configuration; \
         without `--config`, the servers of the access log are used"
    )]
    NoListedServers(String),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

#[derive(Clone, Debug)]
pub struct Replay {
    /// Access logs, one per balancer.
    pub logs: Vec<PathBuf>,
    /// The configuration with the servers, their weights and their limits. `None`: the servers
    /// that the logs name, with equal weights and without limits.
    pub config: Option<PathBuf>,
    /// Replay only this upstream.
    pub upstream: Option<String>,
    pub seed: u64,
}

const MEASURES: [Measure; 3] = [Measure::PeakToMean, Measure::MostOpen, Measure::Refused];

impl Replay {
    /// Replays each upstream. Also returns the number of lines that could not be used.
    ///
    /// # Errors
    /// If a file cannot be read, the configuration has errors, or there is nothing to replay.
    pub fn run(&self) -> Result<(Vec<ScenarioReport>, usize), ReplayError> {
        let log = Log::read(&self.logs)?;
        let mut upstreams: BTreeMap<&str, Vec<&Connection>> = BTreeMap::new();
        for connection in &log.connections {
            let upstream = upstreams.entry(&connection.upstream).or_default();
            upstream.push(connection);
        }
        if let Some(only) = &self.upstream {
            upstreams.retain(|name, _| name == only);
        }
        if upstreams.is_empty() {
            let name = self.upstream.clone().unwrap_or_default();
            return Err(ReplayError::NoConnections(name));
        }
        let config = self.config.as_deref();
        let loaded = config.map(leastconn_config::load_with_expired).transpose();
        let loaded = loaded.map_err(ReplayError::Config)?;
        let reports = upstreams.into_iter().map(|(upstream, connections)| {
            let servers = match &loaded {
                Some(loaded) => configured_servers(&loaded.config, upstream)?,
                None => named_servers(&connections),
            };
            self.replay(upstream, servers, &connections)
        });
        Ok((reports.collect::<Result<_, _>>()?, log.skipped_lines))
    }

    fn replay(
        &self,
        upstream: &str,
        servers: Vec<ServerSetup>,
        connections: &[&Connection],
    ) -> Result<ScenarioReport, ReplayError> {
        let begin = connections
            .iter()
            .map(|c| c.began)
            .min()
            .unwrap_or_default();
        let end = connections
            .iter()
            .map(|c| c.began + c.hold)
            .max()
            .unwrap_or_default();
        let mut arrivals: Vec<Arrival> = connections
            .iter()
            .map(|connection| Arrival {
                at: connection.began - begin,
                // The recorded time includes the connect.
                hold: connection.hold.saturating_sub(ROUND_TRIP),
                source: source(&connection.source),
                balancer: connection.balancer,
            })
            .collect();
        // A log is sorted by the end times of the connections.
        arrivals.sort_by_key(|arrival| arrival.at);
        let recorded = recorded(&servers, connections, begin, end);
        let site = Site {
            servers,
            balancers: self.logs.len().max(1),
            allowed: Vec::new(),
            sharing: Sharing::OwnCounts,
            policy: Policy::default(),
            changes: Vec::new(),
            warm_up: Duration::ZERO,
            duration: end - begin,
            watched: None,
        };
        let mut rows = vec![row("recorded", recorded)];
        for &balance in Balance::ALL {
            let outcome = simulate(&site, &arrivals, balance, self.seed)?;
            rows.push(row(balance.as_str(), outcome));
        }
        Ok(ScenarioReport {
            name: upstream.to_owned(),
            summary: format!(
                "{} connections to {} servers in {:.0} s",
                connections.len(),
                site.servers.len(),
                site.duration.as_secs_f64()
            ),
            runs: 1,
            columns: MEASURES.iter().map(|measure| measure.column()).collect(),
            rows,
        })
    }
}

/// Measures the recorded distribution. Connections to servers that are no longer configured are
/// left out.
fn recorded(
    servers: &[ServerSetup],
    connections: &[&Connection],
    begin: Duration,
    end: Duration,
) -> Outcome {
    let weights = servers.iter().map(|server| server.weight.get().into());
    let is_member = vec![true; servers.len()];
    let mut meter = Meter::new(weights.collect(), is_member, Duration::ZERO, None);
    let mut changes = Vec::new();
    for connection in connections {
        let position = servers
            .iter()
            .position(|server| server.name == connection.server);
        if let Some(server) = position {
            if connection.hold.is_zero() {
                // The connection would end before it begins.
                continue;
            }
            let at = connection.began - begin;
            changes.push((at, true, server));
            changes.push((at + connection.hold, false, server));
        }
    }
    // At the same point in time, connections end before new connections begin.
    changes.sort_unstable();
    for (at, begins, server) in changes {
        if begins {
            meter.opened(at, server);
        } else {
            meter.closed(at, server);
        }
    }
    meter.outcome.connections = connections.len() as u64;
    meter.finish(end - begin)
}

fn row(algorithm: &str, outcome: Outcome) -> Row {
    let outcome = [outcome];
    Row {
        algorithm: algorithm.to_owned(),
        values: MEASURES
            .iter()
            .map(|measure| measure.value(&outcome))
            .collect(),
        rate: Vec::new(),
        share: Vec::new(),
    }
}

/// The source as the balancer hashes it: the address without the port.
fn source(text: &str) -> Source {
    match text.parse::<SocketAddr>() {
        Ok(address) => Source::from(address.ip()),
        Err(_) => Source::of(text.as_bytes()),
    }
}

fn configured_servers(config: &Config, upstream: &str) -> Result<Vec<ServerSetup>, ReplayError> {
    let mut upstreams = config.upstreams.iter();
    let found = upstreams
        .find(|configured| configured.id.as_str() == upstream)
        .ok_or_else(|| ReplayError::UnknownUpstream(upstream.to_owned()))?;
    if found.servers.is_empty() {
        return Err(ReplayError::NoListedServers(upstream.to_owned()));
    }
    let servers = found.servers.iter().map(|spec| ServerSetup {
        weight: spec.weight,
        max_conns: spec.max_conns,
        is_backup: spec.backup,
        ..ServerSetup::new(spec.id.as_str())
    });
    Ok(servers.collect())
}

fn named_servers(connections: &[&Connection]) -> Vec<ServerSetup> {
    let names: BTreeSet<&str> = connections.iter().map(|c| c.server.as_str()).collect();
    names.into_iter().map(ServerSetup::new).collect()
}

#[cfg(test)]
mod tests;
