//! One simulated balancer: a pool with its own health.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::Add,
    sync::LazyLock,
    time::{Duration, Instant},
};

use leastconn::{
    AdminState, Balance, Candidates, Lease, PickRequest, Pool, PoolError, Selector, Server,
    ServerSpec, Source, Waiting,
};
use leastconn_fleet::servers::{DialRate, echo_per_dial};

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
    /// Selects the servers that its clients may use, for connections that wait.
    selector: Selector,
    /// The servers that its clients may use. Empty: all.
    allowed: Vec<usize>,
    /// The dial rate of each server.
    rates: Vec<DialRate>,
    /// Whether the server at a position of [`Site::servers`] is a member.
    is_member: Vec<bool>,
}

impl Balancer {
    /// Creates the balancer at this position.
    pub(super) fn new(
        site: &Site,
        position: usize,
        balance: Balance,
        seed: u64,
    ) -> Result<Self, PoolError> {
        let allowed = site.allowed.get(position).cloned().unwrap_or_default();
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
            candidates: candidates(&pool, &allowed),
            selector: selector(site, &allowed),
            pool,
            allowed,
            rates: vec![DialRate::default(); site.servers.len()],
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
    /// count as connections of one client.
    pub(super) fn enqueue(&self, source: Source, now: Duration) -> Option<Waiting> {
        let now = self.instant(now);
        let waiting = self.pool.enqueue(&self.selector, None, Some(source), now);
        waiting.ok()
    }

    /// The position of the lease's server in [`Site::servers`].
    pub(super) fn position(&self, lease: &Lease) -> usize {
        position_of(lease.server())
    }

    pub(super) fn join(&mut self, site: &Site, server: usize) -> Result<(), PoolError> {
        self.is_member[server] = true;
        self.pool.update(specs(site, &self.is_member))?;
        self.candidates = candidates(&self.pool, &self.allowed);
        Ok(())
    }

    /// The report of this balancer to the other balancers: for each server, its connections and its
    /// dials per second.
    pub(super) fn report(&mut self, now: Duration) -> Vec<Count> {
        let now = self.instant(now);
        let mut counts = vec![Count::default(); self.rates.len()];
        for member in self.pool.members().iter() {
            let position = position_of(&member.server);
            let rate = &mut self.rates[position];
            rate.update(member.server.dials(), now);
            counts[position] = Count {
                open: member.server.in_flight(),
                dials_per_second: rate.per_second(),
            };
        }
        counts
    }

    /// Applies the totals of the other balancers.
    pub(super) fn apply(&self, others: &[Count], has_echo: bool) {
        for member in self.pool.members().iter() {
            let position = position_of(&member.server);
            let others = others[position];
            let own = self.rates[position].per_second();
            let echo = if has_echo {
                echo_per_dial(own, others.dials_per_second)
            } else {
                0.0
            };
            member.server.set_external_load(others.open, echo);
        }
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

/// The connections of one or more balancers on a server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    open: u32,
    dials_per_second: f64,
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            dials_per_second: self.dials_per_second + other.dials_per_second,
        }
    }
}

fn candidates(pool: &Pool, allowed: &[usize]) -> Candidates {
    pool.subset(|server| allowed.is_empty() || allowed.contains(&position_of(server)))
}

fn selector(site: &Site, allowed: &[usize]) -> Selector {
    if allowed.is_empty() {
        return Selector::all();
    }
    let servers = allowed
        .iter()
        .filter_map(|&server| site.servers.get(server));
    Selector::named(servers.map(|server| server.name.as_str()))
}

fn position_of(server: &Server) -> usize {
    // `specs` uses the position as the port.
    server.address().port().map_or(0, usize::from)
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
