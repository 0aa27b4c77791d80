//! Server counts and slots: what this member reports of each server, and what the numbers of the
//! other members mean for picks.
//!
//! With each answer, the pools get the connections that the other members have on each server
//! ([`leastconn::Server::set_external_load`]). Of a server with `max_conns`, each member holds
//! some slots ([`leastconn::Server::set_slots`]); the store divides them so that the sum does
//! not exceed `max_conns`. To give up slots, a member first lowers its own limit and then reports
//! the smaller number; it raises its limit only when the store has answered. A lost or repeated
//! report therefore never makes the sum too large.

mod inventory;
mod server;

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::{SlotRequest, SlotSource};
use leastconn_fleet::{Counts, MemberStatus, Report, ServerKey, SlotView};
use parking_lot::Mutex;

use super::{
    participant::{Exchange, Participant},
    wake::Wake,
};
pub use inventory::Upstreams;
use inventory::{Inventory, Listed};
use server::{ReportContext, ServerState};

/// Settings of the fleet that apply to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Members to assume until the store has answered.
    pub size: NonZeroU32,
    /// The store gives the slots of a member that is silent for this time to other members.
    pub gone_after: Duration,
    /// How long a connection waits for a slot if the upstream has no queue.
    pub ask_timeout: Duration,
    /// Whether picks take the connections of other members into account.
    pub shares_counts: bool,
}

/// The servers of this process in the fleet.
#[derive(Debug)]
pub struct SharedServers {
    settings: ServerSettings,
    upstreams: Arc<dyn Upstreams>,
    wake: Arc<Wake>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    members: NonZeroU32,
    /// Whether the store answers.
    is_joined: bool,
    has_left: bool,
    /// Exchanges in a row in which slots were lacking and nothing changed.
    unchanged: u32,
    inventory: Inventory,
    servers: HashMap<ServerKey, ServerState>,
    counts: Arc<Counts>,
}

impl SharedServers {
    /// `upstreams` are those of the running configuration: a
    /// [`SnapshotHandle`](crate::snapshot::SnapshotHandle).
    pub fn new(settings: ServerSettings, upstreams: Arc<dyn Upstreams>, wake: Arc<Wake>) -> Self {
        Self {
            settings,
            upstreams,
            wake,
            state: Mutex::new(State {
                members: settings.size,
                is_joined: false,
                has_left: false,
                unchanged: 0,
                inventory: Inventory::default(),
                servers: HashMap::new(),
                counts: Arc::default(),
            }),
        }
    }

    /// Must be called before `snapshot` replaces the running one. Servers with `max_conns` in
    /// upstreams that are new start with an equal share of their slots.
    pub fn adopt(&self, snapshot: &dyn Upstreams, now: Instant) {
        let mut state = self.state.lock();
        if !state.has_left {
            state.inventory.update(snapshot);
            self.set_source(&state, snapshot);
            let State {
                members,
                is_joined,
                inventory,
                servers,
                ..
            } = &mut *state;
            for listed in inventory.servers() {
                let server = servers.entry(listed.key).or_default();
                if *is_joined {
                    server.limit(listed, *members, now);
                } else {
                    server.cut_off(listed, *members, now);
                }
            }
        }
    }

    /// Sets where the pools request slots.
    fn set_source(&self, state: &State, upstreams: &dyn Upstreams) {
        let wait = if state.is_joined {
            self.settings.ask_timeout
        } else {
            Duration::ZERO
        };
        let wake = Arc::clone(&self.wake);
        let request = move |request| match request {
            SlotRequest::Needed => wake.urgent(),
            _ => wake.changed(),
        };
        let source = SlotSource::new(state.members, wait, request);
        upstreams.each_pool(&mut |pool| pool.set_slot_source(Some(source.clone())));
    }
}

impl Participant for SharedServers {
    fn report(&self, report: &mut Report, now: Instant) {
        let mut state = self.state.lock();
        if state.has_left {
            return;
        }
        let State {
            members,
            is_joined,
            inventory,
            servers,
            counts,
            ..
        } = &mut *state;
        inventory.update(&*self.upstreams);
        let context = ReportContext {
            members: *members,
            is_joined: *is_joined,
            is_leaving: report.status == MemberStatus::Leaving,
            now,
        };
        let mut changed = Counts {
            version: counts.version + 1,
            servers: Vec::with_capacity(inventory.servers().len()),
        };
        for listed in inventory.servers() {
            let server = servers.entry(listed.key).or_default();
            if let Some(slots) = server.report_slots(listed, &context) {
                report.slots.push(slots);
            }
            changed.servers.push(server.count(listed, now));
        }
        servers.retain(|&key, server| {
            if inventory.get(key).is_some() {
                return true;
            }
            // Keep the server until the store has confirmed that its slots were returned.
            let returned = server.return_slots(key, 0);
            report.slots.extend(returned);
            returned.is_some()
        });
        if !self.settings.shares_counts {
            changed.servers.clear();
        }
        if changed.servers != counts.servers {
            *counts = Arc::new(changed);
        }
        report.counts = Arc::clone(counts);
    }

    fn apply(&self, exchange: &Exchange<'_>) {
        let mut state = self.state.lock();
        if state.has_left {
            return;
        }
        if !state.is_joined || state.members != exchange.members {
            state.is_joined = true;
            state.members = exchange.members;
            self.set_source(&state, &*self.upstreams);
        }
        // Servers that have joined during the exchange keep their first slots.
        let expires = exchange.sent + self.settings.gone_after;
        let views: HashMap<ServerKey, &SlotView> = exchange
            .view
            .slots
            .iter()
            .map(|slots| (slots.server, slots))
            .collect();
        let others = sum_counts(exchange);
        let State {
            members,
            inventory,
            servers,
            unchanged,
            ..
        } = &mut *state;
        let (mut lacks_slots, mut has_changed) = (false, false);
        for listed in inventory.servers() {
            let Some(server) = servers.get_mut(&listed.key) else {
                continue;
            };
            if let Some(view) = views.get(&listed.key) {
                has_changed |= !server.has_view(view);
                server.apply_slots(listed, view, *members, expires, exchange.received);
                lacks_slots |= server.lacks_slots();
            }
            if self.settings.shares_counts {
                server.apply_counts(listed, others.get(&listed.key).copied().unwrap_or_default());
            }
        }
        for slots in &exchange.report.slots {
            let is_shared = (inventory.get(slots.server)).is_some_and(|l| l.max_conns.is_some());
            if slots.want == 0
                && !is_shared
                && let Some(server) = servers.get_mut(&slots.server)
            {
                server.slots_returned();
            }
        }
        if lacks_slots {
            // Another member may return slots at any time.
            *unchanged = if has_changed {
                0
            } else {
                unchanged.saturating_add(1)
            };
            self.wake.waiting(*unchanged);
        }
    }

    fn cut_off(&self, members: NonZeroU32) {
        self.cut_off_at(members, leastconn::net::now());
    }

    fn forget_others(&self) {
        let state = self.state.lock();
        for listed in state.inventory.servers() {
            listed.set_external_load(0, 0.0);
        }
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        state.has_left = true;
        state.inventory.update(&*self.upstreams);
        let now = leastconn::net::now();
        self.upstreams
            .each_pool(&mut |pool| pool.set_slot_source(None));
        for listed in state.inventory.servers() {
            listed.set_external_load(0, 0.0);
            listed.set_slots(None, now);
        }
        state.servers.clear();
    }
}

impl SharedServers {
    fn cut_off_at(&self, members: NonZeroU32, now: Instant) {
        let mut state = self.state.lock();
        // Also the first call when this process joins a fleet again.
        state.has_left = false;
        state.is_joined = false;
        state.members = members;
        state.inventory.update(&*self.upstreams);
        self.set_source(&state, &*self.upstreams);
        let State {
            inventory, servers, ..
        } = &mut *state;
        for listed in inventory.servers() {
            let server = servers.entry(listed.key).or_default();
            server.cut_off(listed, members, now);
        }
    }
}

/// Connections and dials per second of the other members on one server.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    open: u32,
    dials_per_second: f64,
}

fn sum_counts(exchange: &Exchange<'_>) -> HashMap<ServerKey, Others> {
    let members = exchange.view.members.iter();
    let counts = members.flat_map(|member| &member.counts.servers);
    let mut sums: HashMap<ServerKey, Others> = HashMap::new();
    for count in counts {
        let sum = sums.entry(count.server).or_default();
        sum.open = sum.open.saturating_add(count.open);
        sum.dials_per_second += f64::from(count.dials_per_second);
    }
    sums
}

#[cfg(test)]
mod tests;
