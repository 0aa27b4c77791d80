//! Picks a server: first among the available primaries, then among the available backups, then
//! among the unavailable servers.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::{Candidates, Member, Pool, Tried, queue_policy::QueuePolicy};
use crate::{
    Lease, Weight,
    balance::{
        Balance, Load, Open, PickContext, Picker, Seeds, Servers, Source, Steady, slow_start::Ramp,
    },
    server::{Candidate, Counting, DialLimit, Server, SlotRequest},
    spec::{PanicPolicy, UpstreamId, ZoneId},
    sync::Arc,
};

/// The inputs of a pick, apart from the candidates.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PickRequest<'a> {
    /// The current time.
    pub now: Instant,
    /// Servers that must not be picked.
    pub tried: &'a Tried,
    /// The connection's source, for [`Balance::SourceHash`](crate::Balance).
    pub source: Option<Source>,
}

impl<'a> PickRequest<'a> {
    /// Creates a request without a source, for a connection that has not been tried on any server
    /// yet.
    pub const fn new(now: Instant) -> Self {
        Self {
            now,
            tried: Tried::NONE,
            source: None,
        }
    }

    /// Sets the servers that must not be picked.
    #[must_use]
    pub const fn tried(self, tried: &'a Tried) -> Self {
        Self { tried, ..self }
    }

    /// Sets the source of the connection.
    #[must_use]
    pub fn source(self, source: impl Into<Option<Source>>) -> Self {
        let source = source.into();
        Self { source, ..self }
    }
}

/// The pool settings on which picks depend. The queue uses them too.
#[derive(Debug)]
pub(super) struct PickRules {
    pub(super) upstream: UpstreamId,
    pub(super) balance: Balance,
    pub(super) panic: PanicPolicy,
    pub(super) ramp: Ramp,
    pub(super) seeds: Seeds,
    pub(super) zone: Option<ZoneId>,
    pub(super) max_connecting: Option<NonZeroU32>,
    pub(super) counting: Counting,
    pub(super) queue: QueuePolicy,
    pub(super) clock: Option<fn() -> Instant>,
}

impl Pool {
    /// Picks one of `candidates` that is available at `now` and not in `tried`, using the pool's
    /// [`Balance`](crate::Balance) algorithm, and counts the connection on it. Backups are
    /// considered only if no other candidate is available. In both cases, servers in the pool's own
    /// [zone](super::PoolBuilder::zone) are preferred.
    ///
    /// If no candidate is available and the pool has [`PanicPolicy::Dial`], an ejected candidate is
    /// picked in the same way. A candidate that is down is picked only if all candidates are down.
    /// Candidates in drain or maint are never picked.
    ///
    /// If the pool has a [queue](super::PoolBuilder::queue), two more rules apply. A server for
    /// which connections wait is not picked, even if it has a free slot. If a candidate is
    /// available but at `max_conns`, no ejected or down candidate is picked: the connection should
    /// [wait](Self::enqueue) instead.
    ///
    /// Returns `None` if no candidate can be picked.
    pub fn pick(&self, candidates: &Candidates, tried: &Tried, now: Instant) -> Option<Lease> {
        self.pick_for(candidates, &PickRequest::new(now).tried(tried))
    }

    /// Like [`Self::pick`], but takes a request that may have further properties.
    pub fn pick_for(&self, candidates: &Candidates, request: &PickRequest<'_>) -> Option<Lease> {
        self.rules.pick::<false>(candidates, request)
    }
}

/// In these methods, `QUEUED` means that the connection waited in the queue and may therefore use
/// slots that are reserved for the queue.
impl PickRules {
    #[inline]
    pub(super) fn pick<const QUEUED: bool>(
        &self,
        candidates: &Candidates,
        request: &PickRequest<'_>,
    ) -> Option<Lease> {
        let is_usual = self.max_connecting.is_none() && candidates.local().is_none();
        if is_usual {
            let primaries = self.tier::<QUEUED>(candidates, request, false, DialLimit::NONE);
            let lease = self.pick_among(candidates, request, primaries);
            if lease.is_some() {
                return lease;
            }
        }
        self.pick_unusual::<QUEUED>(candidates, request, is_usual)
    }

    /// Picks a server if no primary is available (`no_primary`), if the pool limits dials in
    /// progress, or if only some of the candidates are in the pool's own zone.
    // Not inlined, so that the common path does not reserve registers and stack for it.
    #[inline(never)]
    fn pick_unusual<const QUEUED: bool>(
        &self,
        candidates: &Candidates,
        request: &PickRequest<'_>,
        no_primary: bool,
    ) -> Option<Lease> {
        let pick = |backup, dial_limit| {
            let pick_from = |from| {
                let tier = self.tier::<QUEUED>(from, request, backup, dial_limit);
                self.pick_among(from, request, tier)
            };
            let local = candidates.local();
            local
                .filter(|local| local.is_mostly_available(backup))
                .and_then(pick_from)
                .or_else(|| pick_from(candidates))
        };
        let limit = self.max_connecting.map(DialLimit::new);
        // A server at the dial limit is picked only if all servers of its tier are at the limit.
        let pick_tier = |backup| {
            limit
                .and_then(|limit| pick(backup, limit))
                .or_else(|| pick(backup, DialLimit::NONE))
        };
        let primary = if no_primary { None } else { pick_tier(false) };
        let lease = primary
            .or_else(|| pick_tier(true))
            .or_else(|| self.pick_unavailable::<QUEUED>(candidates, request));
        if lease.is_none() && !QUEUED {
            request_slots(candidates, request);
        }
        lease
    }

    fn tier<'a, const QUEUED: bool>(
        &self,
        candidates: &'a Candidates,
        request: &PickRequest<'a>,
        backup: bool,
        dial_limit: DialLimit,
    ) -> Tier<'a, QUEUED> {
        Tier {
            members: candidates.members(),
            tried: request.tried.servers(),
            backup,
            dial_limit,
            counting: self.counting,
        }
    }

    fn pick_among(
        &self,
        candidates: &Candidates,
        request: &PickRequest<'_>,
        servers: impl Servers,
    ) -> Option<Lease> {
        let acquired = candidates.picker().pick(&PickContext {
            servers,
            now: request.now,
            source: request.source,
            seeds: &self.seeds,
            ramp: &self.ramp,
            weights: candidates.weights(),
        })?;
        let server = &candidates.members()[acquired.position()].server;
        Some(Lease::of_acquired(Arc::clone(server), self.counting))
    }

    /// Picks an ejected candidate that has not been tried. A candidate that is down is picked only
    /// if all candidates are down. As long as any candidate is ejected, down servers are not
    /// dialled, even if the ejected candidate has already been tried or is full. The reason is that
    /// a down server may not answer before the client gives up, whereas the ejected candidate may
    /// recover before the next attempt.
    ///
    /// If the pool has a queue, a connection waits for a candidate that is merely full.
    #[cold]
    fn pick_unavailable<const QUEUED: bool>(
        &self,
        candidates: &Candidates,
        request: &PickRequest<'_>,
    ) -> Option<Lease> {
        let is_available = |member: &Member| member.server.is_available();
        if self.panic != PanicPolicy::Dial
            || (self.queue.size > 0 && candidates.members().iter().any(is_available))
        {
            return None;
        }
        let pick = |down, backup| {
            let servers = UnavailableServers {
                upstream: &self.upstream,
                tier: self.tier::<QUEUED>(candidates, request, backup, DialLimit::NONE),
                down,
            };
            self.pick_among(candidates, request, servers)
        };
        let pick_tiers = |down| pick(down, false).or_else(|| pick(down, true));
        let lease = pick_tiers(false);
        if lease.is_some() {
            return lease;
        }
        let mut members = candidates.members().iter();
        if members.any(|member| member.server.is_not_down()) {
            // A candidate may have come up since the first call.
            return pick_tiers(false);
        }
        pick_tiers(true)
    }

    /// Returns the prospects of a connection that would wait for one of `candidates` at `now`.
    #[cold]
    pub(super) fn outlook(&self, candidates: &Candidates, now: Instant) -> Outlook {
        let any = |is: &dyn Fn(&Member) -> bool| candidates.members().iter().any(is);
        let has_room = |member: &Member| !member.is_full(now);
        if any(&|member| member.server.is_available_at(now)) {
            return Outlook {
                may_wait: true,
                lacks_slots: any(&|member| member.lacks_only_slot(now)),
                has_room: any(&|m| has_room(m) && m.server.is_available_at(now)),
            };
        }
        let may_wait = self.panic == PanicPolicy::Dial && any(&|m| m.server.is_unhealthy());
        Outlook {
            may_wait,
            lacks_slots: false,
            has_room: may_wait && any(&|m| has_room(m) && m.server.is_unhealthy()),
        }
    }
}

/// Asks for more slots if a candidate that was not tried lacks only a slot.
#[cold]
fn request_slots(candidates: &Candidates, request: &PickRequest<'_>) {
    let tried = request.tried.servers();
    let is_tried = |member: &&Member| tried.iter().any(|t| Arc::ptr_eq(t, &member.server));
    let members = candidates.members().iter();
    let mut short = members.filter(|m| !is_tried(m) && m.lacks_only_slot(request.now));
    if let Some(first) = short.next() {
        first.server.add_slot_shortage();
        short.for_each(|member| member.server.add_slot_shortage());
        first.server.request_slots(SlotRequest::Needed);
    }
}

/// The prospects of a connection that would wait for a server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlook {
    /// Whether a candidate could be picked if it were below `max_conns`.
    pub(super) may_wait: bool,
    /// Whether a candidate is available and could be picked if this balancer held one more of its
    /// slots.
    pub(super) lacks_slots: bool,
    /// Whether a candidate may be picked now.
    pub(super) has_room: bool,
}

/// The available servers of one tier (primaries or backups), including ejected servers whose trial
/// is due. `QUEUED`: slots that are reserved for the queue may be used.
#[derive(Clone, Copy)]
struct Tier<'a, const QUEUED: bool> {
    members: &'a [Member],
    tried: &'a [Arc<Server>],
    backup: bool,
    dial_limit: DialLimit,
    counting: Counting,
}

impl<const QUEUED: bool> Tier<'_, QUEUED> {
    fn includes(&self, member: &Member) -> bool {
        let is_tried = |tried| Arc::ptr_eq(tried, &member.server);
        member.backup == self.backup && !self.tried.iter().any(is_tried)
    }

    /// Whether the server has reached its limit on connections or on dials in progress.
    fn is_full(&self, member: &Member, seen: Candidate) -> bool {
        let max = member.max_conns;
        max.is_some_and(|max| seen.in_flight() >= max.get())
            || self.dial_limit.is_reached(seen.word)
    }

    fn open(&self, member: &Member, seen: Candidate) -> Option<Open> {
        (!self.is_full(member, seen)).then_some(Open {
            word: seen.word,
            load: seen.load,
            weight: member.weight,
            ramp: seen.ramp,
        })
    }
}

impl<const QUEUED: bool> Servers for Tier<'_, QUEUED> {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn weight(&self, position: usize) -> Weight {
        self.members[position].weight
    }

    fn steady(&self, now: Instant, ramping: &mut bool) -> impl Iterator<Item = Option<Steady>> {
        // Copy the tier, so that its fields stay in registers. Otherwise the compiler would reload
        // them from memory after each atomic load in the loop.
        let tier = *self;
        self.members.iter().map(move |member| {
            if !tier.includes(member) {
                return None;
            }
            let seen = member.server.steady::<QUEUED>(now, ramping)?;
            let load = Load {
                count: seen.load,
                weight: member.weight,
            };
            let word = seen.word;
            (!tier.is_full(member, seen)).then_some(Steady { load, word })
        })
    }

    fn open(&self, position: usize, now: Instant, ramp: Ramp) -> Option<Open> {
        let member = &self.members[position];
        if !self.includes(member) {
            return None;
        }
        self.open(member, member.server.available::<QUEUED>(now, ramp)?)
    }

    fn end_ramp(&self, position: usize, seen: u64) {
        self.members[position].server.end_ramp_if_unchanged(seen);
    }

    fn name_hash(&self, position: usize) -> u64 {
        self.members[position].server.name_hash()
    }

    #[inline]
    fn try_acquire(&self, position: usize, seen: u64, now: Instant) -> bool {
        let server = &self.members[position].server;
        server.try_acquire::<QUEUED>(seen, self.counting, now)
    }
}

/// The ejected servers of one tier and, if `down` is set, also its down servers.
struct UnavailableServers<'a, const QUEUED: bool> {
    #[cfg_attr(
        not(feature = "tokio"),
        expect(dead_code, reason = "used only for logging")
    )]
    upstream: &'a UpstreamId,
    tier: Tier<'a, QUEUED>,
    down: bool,
}

impl<const QUEUED: bool> Servers for UnavailableServers<'_, QUEUED> {
    fn len(&self) -> usize {
        self.tier.len()
    }

    fn weight(&self, position: usize) -> Weight {
        self.tier.weight(position)
    }

    /// Slow start does not apply to servers that are dialled while no server is available.
    fn steady(&self, now: Instant, _: &mut bool) -> impl Iterator<Item = Option<Steady>> {
        let ramp = Ramp::new(Duration::ZERO);
        (0..self.len()).map(move |position| {
            let open = self.open(position, now, ramp)?;
            let load = Load {
                count: open.load,
                weight: open.weight,
            };
            let word = open.word;
            Some(Steady { load, word })
        })
    }

    fn open(&self, position: usize, now: Instant, _: Ramp) -> Option<Open> {
        let member = &self.tier.members[position];
        if !self.tier.includes(member) {
            return None;
        }
        let seen = member
            .server
            .candidate_if_unavailable::<QUEUED>(now, self.down)?;
        self.tier.open(member, seen)
    }

    fn end_ramp(&self, _: usize, _: u64) {}

    fn name_hash(&self, position: usize) -> u64 {
        self.tier.name_hash(position)
    }

    fn try_acquire(&self, position: usize, seen: u64, now: Instant) -> bool {
        let server = &self.tier.members[position].server;
        let (acquired, is_first) =
            server.try_acquire_unavailable::<QUEUED>(seen, self.tier.counting, now);
        #[cfg(feature = "tokio")]
        if acquired && is_first {
            tracing::warn!(
                upstream = %self.upstream,
                server = %server.id(),
                "dialling an unavailable server: no server that the client may use is available"
            );
        }
        #[cfg(not(feature = "tokio"))]
        let _ = is_first;
        acquired
    }
}
