//! Picking: primaries first, then backups, then servers of last resort.

use std::time::Instant;

use super::{Candidates, Member, Pool, Tried};
use crate::{
    Lease, Weight,
    balance::{Open, PickContext, Picker, Servers, Source, slow_start::Ramp},
    server::Candidate,
    spec::{PanicPolicy, UpstreamId},
    sync::Arc,
};

/// What a pick depends on besides the candidates.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PickRequest<'a> {
    /// The present time.
    pub now: Instant,
    /// Servers that are not picked.
    pub tried: &'a Tried,
    /// Where the connection comes from, for [`Balance::SourceHash`](crate::Balance).
    pub source: Option<Source>,
}

impl<'a> PickRequest<'a> {
    /// A pick at `now` without a source, of a connection that was not tried on any server.
    pub const fn new(now: Instant) -> Self {
        Self {
            now,
            tried: Tried::NONE,
            source: None,
        }
    }

    /// Excludes servers.
    #[must_use]
    pub const fn tried(self, tried: &'a Tried) -> Self {
        Self { tried, ..self }
    }

    /// Sets where the connection comes from.
    #[must_use]
    pub fn source(self, source: impl Into<Option<Source>>) -> Self {
        let source = source.into();
        Self { source, ..self }
    }
}

impl Pool {
    /// Picks one of `candidates` that is available at `now` and not in `tried`, by the pool's
    /// [`Balance`](crate::Balance), and counts the connection on it. Backups are considered
    /// only if no other candidate is available.
    ///
    /// If none is available, [`PanicPolicy::Dial`] picks an ejected candidate in the same way,
    /// and one that is down only if all candidates are down. Candidates in drain or maint are
    /// never picked.
    ///
    /// `None`: no candidate may be picked.
    pub fn pick(&self, candidates: &Candidates, tried: &Tried, now: Instant) -> Option<Lease> {
        self.pick_for(candidates, &PickRequest::new(now).tried(tried))
    }

    /// Like [`Self::pick`], for a request with further properties.
    pub fn pick_for(&self, candidates: &Candidates, request: &PickRequest<'_>) -> Option<Lease> {
        let tier = |backup| Tier {
            members: candidates.members(),
            tried: request.tried,
            backup,
        };
        self.pick_among(candidates, request, tier(false))
            .or_else(|| self.pick_among(candidates, request, tier(true)))
            .or_else(|| self.pick_last_resort(candidates, request))
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
            ramp: self.ramp,
            total_weight: candidates.total_weight(),
            max_weight: candidates.max_weight(),
        })?;
        let server = &candidates.members()[acquired.position()].server;
        Some(Lease::of_acquired(Arc::clone(server)))
    }

    /// Picks an ejected candidate that was not tried, or one that is down if all candidates
    /// are down. A candidate that is not down is preferred even if it was tried or is full:
    /// one that is down may not answer before the client gives up, while the other may recover
    /// until the next attempt.
    #[cold]
    fn pick_last_resort(
        &self,
        candidates: &Candidates,
        request: &PickRequest<'_>,
    ) -> Option<Lease> {
        if self.panic != PanicPolicy::Dial {
            return None;
        }
        let pick = |down, backup| {
            let tier = Tier {
                members: candidates.members(),
                tried: request.tried,
                backup,
            };
            let servers = LastResort {
                upstream: &self.id,
                tier,
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
            // It may have come up since.
            return pick_tiers(false);
        }
        pick_tiers(true)
    }
}

/// The available servers of one tier, primaries or backups. Includes an ejected server whose
/// trial is due.
struct Tier<'a> {
    members: &'a [Member],
    tried: &'a Tried,
    backup: bool,
}

impl<'a> Tier<'a> {
    fn member(&self, position: usize) -> Option<&'a Member> {
        let member = &self.members[position];
        let is_excluded = member.backup != self.backup || self.tried.contains(&member.server);
        (!is_excluded).then_some(member)
    }
}

/// `None` if the server is at `max_conns`.
fn open(member: &Member, seen: Candidate) -> Option<Open> {
    let max = member.max_conns;
    let is_full = max.is_some_and(|max| seen.in_flight >= max.get());
    (!is_full).then_some(Open {
        word: seen.word,
        in_flight: seen.in_flight,
        weight: member.weight,
        ramp: seen.ramp,
    })
}

impl Servers for Tier<'_> {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn weight(&self, position: usize) -> Weight {
        self.members[position].weight
    }

    fn steady(&self, position: usize, now: Instant, ramping: &mut bool) -> Option<Open> {
        let member = self.member(position)?;
        open(member, member.server.steady(now, ramping)?)
    }

    fn open(&self, position: usize, now: Instant, ramp: Ramp) -> Option<Open> {
        let member = self.member(position)?;
        open(member, member.server.available(now, ramp)?)
    }

    fn name_hash(&self, position: usize) -> u64 {
        self.members[position].server.name_hash()
    }

    fn try_acquire(&self, position: usize, seen: u64, now: Instant) -> bool {
        self.members[position].server.try_acquire(seen, now)
    }
}

/// Servers of one tier that are ejected, or with `down` also those that are down.
struct LastResort<'a> {
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "for the log"))]
    upstream: &'a UpstreamId,
    tier: Tier<'a>,
    down: bool,
}

impl Servers for LastResort<'_> {
    fn len(&self) -> usize {
        self.tier.len()
    }

    fn weight(&self, position: usize) -> Weight {
        self.tier.weight(position)
    }

    /// No server of last resort is in slow start.
    fn steady(&self, position: usize, _: Instant, _: &mut bool) -> Option<Open> {
        let member = self.tier.member(position)?;
        open(member, member.server.last_resort(self.down)?)
    }

    fn open(&self, position: usize, now: Instant, _: Ramp) -> Option<Open> {
        self.steady(position, now, &mut false)
    }

    fn name_hash(&self, position: usize) -> u64 {
        self.tier.name_hash(position)
    }

    fn try_acquire(&self, position: usize, seen: u64, _: Instant) -> bool {
        let server = &self.tier.members[position].server;
        let (acquired, is_first) = server.try_acquire_last_resort(seen);
        #[cfg(feature = "tokio")]
        if acquired && is_first {
            tracing::warn!(
                upstream = %self.upstream,
                server = %server.id(),
                "server dialled as a last resort: no other server that the client may use is available"
            );
        }
        #[cfg(not(feature = "tokio"))]
        let _ = is_first;
        acquired
    }
}
