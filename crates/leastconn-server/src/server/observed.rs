//! Provides the values that metrics are collected from.

use std::sync::Arc;

use leastconn::{Member, net};
use leastconn_config::{FileKind, files};

use crate::{
    context::{Phase, ServerContext},
    telemetry::metrics::{DiscoveryState, FileValidity, FleetGauges, Observed},
};

#[derive(Debug)]
pub(super) struct ObservedContext(pub(super) Arc<ServerContext>);

impl ObservedContext {
    fn connections_elsewhere(&self) -> Vec<(String, String, u64)> {
        let servers = self.servers().into_iter();
        servers
            .map(|(upstream, member)| {
                let connections = member.server.status().external_connections.into();
                (upstream, member.server.id().to_string(), connections)
            })
            .collect()
    }
}

impl Observed for ObservedContext {
    fn servers(&self) -> Vec<(String, Member)> {
        let snapshot = self.0.snapshot();
        let upstreams = snapshot.config.upstreams.iter();
        let running = upstreams.filter_map(|upstream| snapshot.upstreams.get(&upstream.id));
        running
            .flat_map(|upstream| {
                let pool = upstream.pool();
                let id = pool.id().to_string();
                let members = pool.members();
                let members: Vec<_> = members.iter().map(|m| (id.clone(), m.clone())).collect();
                members
            })
            .collect()
    }

    fn removed_servers(&self) -> Vec<(String, String, u64)> {
        let removed = self.0.snapshot().departed_servers().into_iter();
        removed
            .map(|(upstream, server)| {
                let connections = server.in_flight().into();
                (upstream.to_string(), server.id().to_string(), connections)
            })
            .collect()
    }

    fn agents(&self) -> Vec<(String, String, f64)> {
        let snapshot = self.0.snapshot();
        snapshot
            .running_upstreams()
            .flat_map(|upstream| {
                let id = upstream.pool().id();
                let ages = upstream.agent_report_ages().into_iter();
                ages.map(|(server, age)| (id.to_string(), server.to_string(), age.as_secs_f64()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    fn discoveries(&self) -> Vec<DiscoveryState> {
        let snapshot = self.0.snapshot();
        snapshot
            .running_upstreams()
            .filter(|upstream| upstream.has_sources())
            .map(|upstream| {
                let sources = upstream.sources();
                let mut state = DiscoveryState {
                    upstream: upstream.pool().id().to_string(),
                    servers: sources.iter().map(|source| source.servers.len()).sum(),
                    stale_seconds: 0.0,
                    lookups: [("answered", 0), ("empty", 0), ("failed", 0)],
                };
                for source in sources {
                    let counts = source.counts;
                    let counts = [counts.answered, counts.empty, counts.failed];
                    for ((_, total), count) in state.lookups.iter_mut().zip(counts) {
                        *total += count;
                    }
                    state.stale_seconds = state.stale_seconds.max(source.age.as_secs_f64());
                }
                state
            })
            .collect()
    }

    fn upstreams(&self) -> Vec<(String, bool)> {
        let snapshot = self.0.snapshot();
        snapshot
            .pools()
            .map(|pool| (pool.id().to_string(), pool.is_panicking()))
            .collect()
    }

    fn queues(&self) -> Vec<(String, usize)> {
        let snapshot = self.0.snapshot();
        let now = net::now();
        let pools = snapshot.pools();
        pools
            .map(|pool| (pool.id().to_string(), pool.queue_status(now).waiting))
            .collect()
    }

    fn own_zones(&self) -> Vec<(String, bool)> {
        let snapshot = self.0.snapshot();
        snapshot
            .pools()
            .filter_map(|pool| Some((pool.id().to_string(), pool.own_zone()?.1)))
            .collect()
    }

    fn file_validity(&self) -> Vec<FileValidity> {
        let snapshot = self.0.snapshot();
        let now = jiff::Timestamp::now();
        snapshot
            .config
            .certificate_files()
            .filter_map(|file| {
                let deciding = file.deciding(now)?;
                Some(FileValidity {
                    file: file.path.display().to_string(),
                    is_crl: file.kind == FileKind::Lists,
                    ends: deciding.until.as_second(),
                    begins: deciding.from.as_second(),
                })
            })
            .collect()
    }

    fn predecessors(&self) -> Vec<u64> {
        let all = self.0.predecessors.list().into_iter();
        all.map(|(_, connections)| connections).collect()
    }

    fn lost_log_lines(&self) -> u64 {
        self.0.telemetry.access_log.lost()
    }

    fn blocked_seconds(&self) -> f64 {
        let blocked = files::blocked();
        blocked.map_or(0.0, |blocked| blocked.elapsed().as_secs_f64())
    }

    fn memory(&self) -> (u64, u64) {
        let usage = self.0.memory.usage();
        usage.map_or((0, 0), |usage| (usage.used, usage.limit))
    }

    fn fleet(&self) -> Option<FleetGauges> {
        let status = self.0.fleet.get()?.status();
        Some(FleetGauges {
            state: status.state,
            members: status.members.len(),
            elsewhere: self.connections_elsewhere(),
        })
    }

    fn is_ready(&self) -> bool {
        self.0.lifecycle.phase() == Phase::Ready
    }

    fn is_last_reload_applied(&self) -> bool {
        let last = self.0.lifecycle.last_reload();
        last.is_none_or(|reload| reload.reasons.is_empty())
    }
}
