//! One simulated balancer: a pool with its own counts and health.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::LazyLock,
    time::{Duration, Instant},
};

use leastconn::{
    AdminState, Balance, Candidates, Lease, PickRequest, Pool, PoolError, Selector, ServerSpec,
    Source, Waiting,
};

use crate::site::Site;

/// The start of all simulations.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise; only differences are used"
)]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Debug)]
pub(super) struct Balancer {
    pool: Pool,
    candidates: Candidates,
    /// Whether the server at a position of [`Site::servers`] is a member.
    is_member: Vec<bool>,
}

impl Balancer {
    pub(super) fn new(site: &Site, balance: Balance, seed: u64) -> Result<Self, PoolError> {
        let is_member: Vec<bool> = site.servers.iter().map(|server| server.is_member).collect();
        let pool = Pool::builder("simulated")
            .servers(specs(site, &is_member))
            .balance(balance)
            .slow_start(site.policy.slow_start)
            .passive(site.policy.passive)
            .queue(site.policy.queue)
            .active(site.policy.check.map(|check| check.policy))
            .seed(seed)
            .build()?;
        Ok(Self {
            candidates: pool.all(),
            pool,
            is_member,
        })
    }

    /// The time as the pool expects it.
    pub(super) fn instant(&self, now: Duration) -> Instant {
        *START + now
    }

    pub(super) fn pick(&self, request: &PickRequest<'_>) -> Option<Lease> {
        self.pool.pick_for(&self.candidates, request)
    }

    /// Makes a connection wait for a server, if the pool has a queue with room. All connections
    /// count as those of one client.
    pub(super) fn enqueue(&self, source: Source, now: Duration) -> Option<Waiting> {
        let now = self.instant(now);
        let waiting = self.pool.enqueue(&Selector::all(), None, Some(source), now);
        waiting.ok()
    }

    /// The position of the lease's server in [`Site::servers`].
    pub(super) fn position(&self, lease: &Lease) -> usize {
        // `specs` uses the position as the port.
        lease.server().address().port().map_or(0, usize::from)
    }

    pub(super) fn join(&mut self, site: &Site, server: usize) -> Result<(), PoolError> {
        self.is_member[server] = true;
        self.pool.update(specs(site, &self.is_member))?;
        self.candidates = self.pool.all();
        Ok(())
    }

    pub(super) fn probed(&self, name: &str, success: bool) {
        if let Some(server) = self.pool.server(name) {
            server.probed(success);
        }
    }

    /// Whether a connection without a server should wait. It should not if all servers are full.
    pub(super) fn may_recover(&self) -> bool {
        self.candidates.members().iter().any(|member| {
            let status = member.server.status();
            let is_full = member
                .max_conns
                .is_some_and(|max| status.in_flight >= max.get());
            status.admin == AdminState::Ready && (!status.is_up() || !is_full)
        })
    }
}

fn specs(site: &Site, is_member: &[bool]) -> Vec<ServerSpec> {
    let members = site.servers.iter().zip(is_member).enumerate();
    members
        .filter(|(_, (_, is_member))| **is_member)
        .map(|(position, (server, _))| {
            let port = u16::try_from(position).unwrap_or(u16::MAX);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            ServerSpec::new(server.name.as_str(), address)
                .weight(server.weight)
                .max_conns(server.max_conns)
                .backup(server.is_backup)
        })
        .collect()
}
