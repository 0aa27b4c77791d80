//! What this member knows of one server.

use std::{num::NonZeroU32, time::Instant};

use leastconn::SlotGrant;
use leastconn_fleet::{
    ServerCount, ServerKey, SlotReport, SlotView,
    servers::{DialRate, SlotDemand, SlotSituation, echo_per_dial},
};

use super::{Listed, Others};

#[derive(Debug, Default)]
pub(super) struct ServerState {
    rate: DialRate,
    /// The rate of the last report.
    reported_rate: f32,
    demand: SlotDemand,
    /// [`Listed::shortages`] at the last report.
    shortages: u64,
    slots: Option<Slots>,
}

/// The slots of a server with `max_conns`.
#[derive(Clone, Copy, Debug)]
struct Slots {
    /// The last answer of the store. `None`: there was none.
    view: Option<SlotView>,
    /// The limit for new connections.
    limit: u32,
    /// When `limit` expires. `None`: it does not.
    expires: Option<Instant>,
    wanted: u32,
}

/// The circumstances of a report.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReportContext {
    /// Serving members.
    pub(super) members: NonZeroU32,
    /// Whether the store answers.
    pub(super) is_joined: bool,
    /// Whether this process accepts no more connections.
    pub(super) is_leaving: bool,
    pub(super) now: Instant,
}

impl ServerState {
    /// Whether this member wants more slots than it holds.
    pub(super) fn lacks_slots(&self) -> bool {
        let held = |slots: Slots| slots.view.map_or(0, |view| view.held);
        self.slots.is_some_and(|slots| slots.wanted > held(slots))
    }

    /// Whether the last answer was the same.
    pub(super) fn has_view(&self, view: &SlotView) -> bool {
        self.slots.is_some_and(|slots| slots.view == Some(*view))
    }

    /// The connections of this member, for the report.
    pub(super) fn count(&mut self, listed: &Listed, now: Instant) -> ServerCount {
        self.rate.update(listed.dials(), now);
        let rate = self.rate.per_second() as f32;
        // Report only significant changes, so that counts that stay the same are not sent again.
        let threshold = (self.reported_rate * 0.1).max(0.05);
        if (rate - self.reported_rate).abs() > threshold {
            self.reported_rate = rate;
        }
        ServerCount {
            server: listed.key,
            open: listed.in_flight(),
            dials_per_second: self.reported_rate,
        }
    }

    /// The number of slots that this member wants, if the server has `max_conns`. If it wants
    /// fewer than it holds, the limit is lowered first.
    pub(super) fn report_slots(
        &mut self,
        listed: &Listed,
        context: &ReportContext,
    ) -> Option<SlotReport> {
        let &ReportContext { members, now, .. } = context;
        let Some(max) = listed.max_conns.map(NonZeroU32::get) else {
            let is_member = listed.member.is_some();
            if is_member && self.slots.is_some() {
                listed.set_slots(None, now);
            }
            // Connections to a member without `max_conns` need no slots.
            let open = if is_member { 0 } else { listed.in_flight() };
            return self.return_slots(listed.key, open);
        };
        if self.slots.is_none() || !context.is_joined {
            self.cut_off(listed, members, now);
        }
        let before = std::mem::replace(&mut self.shortages, listed.shortages());
        let shortages = self.shortages.saturating_sub(before);
        let slots = self.slots.as_mut()?;
        let view = slots.view;
        let open = listed.in_flight();
        let lacking = u32::try_from(shortages).unwrap_or(u32::MAX);
        let lacking = lacking.saturating_add(listed.waiting);
        let situation = SlotSituation {
            max,
            members: members.get(),
            open,
            lacking,
            held: view.map_or(0, |view| view.held),
            free: view.map_or(0, |view| view.free),
            unmet: view.map_or(0, |view| view.unmet),
        };
        slots.wanted = if context.is_leaving {
            // Only connections that were accepted before still need slots.
            open.saturating_add(lacking).min(max)
        } else if view.is_none() {
            let wanted = self.demand.wanted(&situation, now);
            wanted.max(equal_share(max, members))
        } else {
            self.demand.wanted(&situation, now)
        };
        // While the store does not answer, the limit must not fall below an equal share.
        if context.is_joined {
            slots.limit = slots.limit.min(slots.wanted);
        }
        let open = listed.set_slots(Some(slots.grant(max, members)), now);
        Some(SlotReport {
            server: listed.key,
            max,
            want: slots.wanted.max(open),
            open,
        })
    }

    /// Returns all slots but those of `open` connections to the store. The server is no longer a
    /// member of a pool, or has no `max_conns`.
    pub(super) fn return_slots(&mut self, server: ServerKey, open: u32) -> Option<SlotReport> {
        let slots = self.slots.as_mut()?;
        slots.wanted = 0;
        // If the server comes back, the slots have to be requested again.
        slots.limit = 0;
        let max = slots.view.map_or(open, |view| view.held + view.free);
        Some(SlotReport {
            server,
            max: max.max(open),
            want: open,
            open,
        })
    }

    /// The store has confirmed that this member holds no slots of the server.
    pub(super) fn slots_returned(&mut self) {
        self.slots = None;
    }

    /// Applies the answer of the store. The slots expire when the store would give them to other
    /// members.
    pub(super) fn apply_slots(
        &mut self,
        listed: &Listed,
        view: &SlotView,
        members: NonZeroU32,
        expires: Instant,
        now: Instant,
    ) {
        if let Some(slots) = &mut self.slots
            && let Some(max) = listed.max_conns
        {
            slots.view = Some(*view);
            slots.limit = view.held.min(slots.wanted);
            slots.expires = Some(expires);
            listed.set_slots(Some(slots.grant(max.get(), members)), now);
        }
    }

    /// Limits a server object that may be new in its pool. If nothing is known of the server, it
    /// gets an equal share of its slots.
    pub(super) fn limit(&mut self, listed: &Listed, members: NonZeroU32, now: Instant) {
        match (&self.slots, listed.max_conns) {
            (Some(slots), Some(max)) => {
                listed.set_slots(Some(slots.grant(max.get(), members)), now);
            }
            _ => self.cut_off(listed, members, now),
        }
    }

    /// The store does not answer: new connections may use at least an equal share of the slots.
    /// Slots that this member holds are used until they expire.
    pub(super) fn cut_off(&mut self, listed: &Listed, members: NonZeroU32, now: Instant) {
        let Some(max) = listed.max_conns.map(NonZeroU32::get) else {
            return;
        };
        let share = equal_share(max, members);
        let slots = self.slots.get_or_insert(Slots {
            view: None,
            limit: share,
            expires: None,
            wanted: share,
        });
        if slots.expires.is_none_or(|expires| now >= expires) {
            slots.limit = share;
            slots.expires = None;
        }
        slots.limit = slots.limit.max(share);
        listed.set_slots(Some(slots.grant(max, members)), now);
    }

    /// Sets the load by other members.
    pub(super) fn apply_counts(&self, listed: &Listed, others: Others) {
        let echo = echo_per_dial(self.rate.per_second(), others.dials_per_second);
        listed.set_external_load(others.open, echo);
    }
}

impl Slots {
    fn grant(&self, max: u32, members: NonZeroU32) -> SlotGrant {
        let grant = SlotGrant::new(self.limit);
        match self.expires {
            Some(expires) => grant.expiring(expires, equal_share(max, members)),
            None => grant,
        }
    }
}

/// The slots of a member while the store does not answer. At least one: if there are fewer slots
/// than members, the sum exceeds `max`, but the server stays usable.
fn equal_share(max: u32, members: NonZeroU32) -> u32 {
    (max / members).max(1)
}
