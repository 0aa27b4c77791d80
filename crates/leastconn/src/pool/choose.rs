//! How each [`Balance`] chooses in a tier, and counts what it chose.
//!
//! Each looks at the candidates, chooses, and counts by compare-and-swap against the
//! word that it saw; if that fails, it looks again. Least connections, the usual way,
//! costs nothing for the others being there: it is told from them once a pick.
//!
//! "Power of two choices" (Mitzenmacher 2001) looks at a few candidates only, however
//! many there are: it draws one of them, lets it pass with the chance that its share
//! leaves it beside the heaviest one, until there are two that differ (Envoy issue
//! 29873: two draws of the same server are no choice). After [`DRAWS`] it looks at all
//! of them for what is missing, by the same chances.

use std::time::Instant;

use super::{Candidates, Member, Pool, Tried};
use crate::{
    Lease, Weight,
    balance::least_conn::{Load, below, draw, drawn, least, rendezvous},
    balance::slow_start::{FULL, Pace},
    server::Candidate,
    spec::{Balance, PanicPolicy, Source, UpstreamId},
    sync::Arc,
};

/// Draws for two candidates, before all of them are looked at.
const DRAWS: usize = 16;

/// A candidate that is available.
#[derive(Clone, Copy, Debug)]
struct Open {
    seen: Candidate,
    weight: Weight,
}

impl Open {
    /// What it is to get beside others, in parts of a weight of 1.
    fn share(self) -> u32 {
        u32::from(self.weight.get()) * self.seen.part()
    }

    /// Whether a connection more weighs less on it than on the other one.
    fn is_lighter_than(self, other: Self) -> bool {
        self.is_lighter_by(other, |open| open.weight.get().into())
    }

    fn is_lighter_by(self, other: Self, share: fn(Self) -> u32) -> bool {
        let weighed =
            |of: Self, by: Self| (u64::from(of.seen.in_flight) + 1) * u64::from(share(by));
        weighed(self, other) < weighed(other, self)
    }
}

/// Servers that a pick considers, by their health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// Available ones, and ejected ones whose trial is due.
    Available,
    /// Ejected ones as well.
    Ejected,
    /// Also those that are down.
    Down,
}

/// One pick: which servers may be chosen, and when.
struct Choice<'a> {
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "for the log"))]
    upstream: &'a UpstreamId,
    candidates: &'a Candidates,
    tried: &'a Tried,
    now: Instant,
    backup: bool,
    health: Health,
    pace: Pace,
}

impl Choice<'_> {
    fn open(&self, member: &Member, pace: Pace) -> Option<Open> {
        if member.backup != self.backup || self.tried.contains(&member.server) {
            return None;
        }
        let seen = match self.health {
            Health::Available => member.server.candidate_at(self.now, pace)?,
            Health::Ejected => member.server.last_resort(false)?,
            Health::Down => member.server.last_resort(true)?,
        };
        let full = member
            .max_conns
            .is_some_and(|max| seen.in_flight >= max.get());
        let weight = member.weight;
        (!full).then_some(Open { seen, weight })
    }

    /// All candidates, those that are not available as `None`.
    fn all(&self) -> impl Iterator<Item = Option<Open>> {
        let members = self.candidates.members.iter();
        members.map(|member| self.open(member, self.pace))
    }

    /// Counts on what `choose` finds, until that succeeds.
    fn count(&self, mut choose: impl FnMut() -> Option<(usize, u64)>) -> Option<Lease> {
        loop {
            let (position, word) = choose()?;
            let server = &self.candidates.members[position].server;
            let acquired = match self.health {
                Health::Available => server.try_acquire(word, self.now),
                Health::Ejected | Health::Down => {
                    let (acquired, first) = server.try_acquire_last_resort(word);
                    #[cfg(feature = "tokio")]
                    if acquired && first {
                        tracing::warn!(upstream = %self.upstream, server = %server.id(), "server dialled as a last resort: no other server that the client may use is available");
                    }
                    #[cfg(not(feature = "tokio"))]
                    let _ = first;
                    acquired
                }
            };
            if acquired {
                return Some(Lease::of_acquired(Arc::clone(server)));
            }
        }
    }

    fn least(&self, seed: u64) -> Option<(usize, u64)> {
        let loads = self.all().map(|open| {
            open.map(|open| {
                let load = Load {
                    in_flight: open.seen.in_flight,
                    weight: open.weight,
                };
                (load, open.seen.word)
            })
        });
        least(loads, seed)
    }

    fn at_random(&self, seed: u64) -> Option<Lease> {
        // The same seed again, if somebody was faster: another one would favour
        // servers on which less is going on.
        self.count(|| {
            let shares = self
                .all()
                .map(|open| open.map(|o| (o.share(), o.seen.word)));
            drawn(shares, seed)
        })
    }

    fn by_source(&self, source: Source) -> Option<Lease> {
        self.count(|| {
            let members = self.candidates.members.iter();
            let named = members
                .zip(self.all())
                .map(|(member, open)| open.map(|o| (o.share(), member.server.hash(), o.seen.word)));
            rendezvous(named, source.key())
        })
    }

    fn in_turn(&self) -> Option<Lease> {
        let turns = self.candidates.turns.as_ref()?;
        loop {
            let (position, ()) =
                turns.next(|| self.all().map(|open| open.map(|o| (o.share(), ()))))?;
            // The turn is its own, whatever else is counted on it meanwhile.
            let member = &self.candidates.members[position];
            let lease = self.count(|| {
                let open = self.open(member, self.pace)?;
                Some((position, open.seen.word))
            });
            if lease.is_some() {
                return lease;
            }
        }
    }

    fn better_of_two(&self, seed: u64) -> Option<(usize, u64)> {
        let (mut first, mut second) = (None, None);
        for (position, open) in self.draws(seed) {
            match first {
                None => first = Some((position, open)),
                Some((held, _)) if held == position => {}
                Some(_) => {
                    second = Some((position, open));
                    break;
                }
            }
        }
        let scan = |seed, beside: Option<usize>| {
            let shares = self.all().enumerate().map(|(position, open)| {
                let open = open.filter(|_| beside != Some(position));
                open.map(|open| (open.share(), open))
            });
            drawn(shares, seed)
        };
        let first = first.or_else(|| scan(draw(!seed, 0), None))?;
        let second = second.or_else(|| scan(draw(!seed, 1), Some(first.0)));
        // By their shares as well: one that is beginning slowly is drawn first as seldom as
        // it should be already, and may not win more often by being drawn second. If it
        // had to win by its share both times, it would get nothing from those that have
        // nothing to do.
        let is_better = |second: Open| {
            second.is_lighter_than(first.1) && second.is_lighter_by(first.1, Open::share)
        };
        let (position, better) = second.filter(|second| is_better(second.1)).unwrap_or(first);
        Some((position, better.seen.word))
    }

    /// Available candidates, each as likely as its share says, and drawn anew each time.
    fn draws(&self, seed: u64) -> impl Iterator<Item = (usize, Open)> {
        let members = &self.candidates.members;
        let heaviest = u64::from(self.candidates.heaviest.get()) * u64::from(FULL);
        // Two are looked at faster than drawn.
        let draws = if members.len() > 2 { DRAWS } else { 0 };
        (0..draws).filter_map(move |n| {
            let position = below(draw(seed, 2 * n), members.len() as u64) as usize;
            let open = self.open(&members[position], self.pace)?;
            let passes = below(draw(seed, 2 * n + 1), heaviest) < u64::from(open.share());
            passes.then_some((position, open))
        })
    }
}

impl Pool {
    /// By [`Balance::LeastConn`], in a tier.
    pub(super) fn pick_least(
        &self,
        candidates: &Candidates,
        tried: &Tried,
        now: Instant,
        backup: bool,
    ) -> Option<Lease> {
        loop {
            let mut slow = false;
            let seen = candidates.members.iter().map(|member| {
                if member.backup != backup || tried.contains(&member.server) {
                    return None;
                }
                let (word, in_flight) = member.server.candidate(now, &mut slow)?;
                let full = member.max_conns.is_some_and(|max| in_flight >= max.get());
                let weight = member.weight;
                (!full).then_some((Load { in_flight, weight }, word))
            });
            let least = least(seen, self.next_seed());
            if slow {
                return self.pick_least_beside_slow(&self.choice(candidates, tried, now, backup));
            }
            let (position, word) = least?;
            let server = &candidates.members[position].server;
            if server.try_acquire(word, now) {
                return Some(Lease::of_acquired(Arc::clone(server)));
            }
        }
    }

    /// By any other [`Balance`], in a tier.
    pub(super) fn pick_otherwise(
        &self,
        candidates: &Candidates,
        tried: &Tried,
        now: Instant,
        backup: bool,
    ) -> Option<Lease> {
        self.pick_by(&self.choice(candidates, tried, now, backup))
    }

    fn pick_by(&self, choice: &Choice<'_>) -> Option<Lease> {
        match (self.balance, choice.candidates.source) {
            (Balance::LeastConn, _) => choice.count(|| choice.least(self.next_seed())),
            (Balance::P2c, _) => {
                let seed = self.next_seed();
                choice.count(|| choice.better_of_two(seed))
            }
            (Balance::RoundRobin, _) if choice.candidates.turns.is_some() => choice.in_turn(),
            (Balance::SourceHash, Some(source)) => choice.by_source(source),
            // Without what it goes by, each draws.
            _ => choice.at_random(self.next_seed()),
        }
    }

    const fn choice<'a>(
        &'a self,
        candidates: &'a Candidates,
        tried: &'a Tried,
        now: Instant,
        backup: bool,
    ) -> Choice<'a> {
        Choice {
            upstream: &self.id,
            candidates,
            tried,
            now,
            backup,
            health: Health::Available,
            pace: self.pace,
        }
    }

    /// While no candidate is available: an ejected one that was not tried; where all
    /// are down, one of those. A candidate that is not down is a better choice, even if
    /// it was tried or is full: a server that is down may not answer before the client
    /// has given up, while the others may recover until the next attempt.
    #[cold]
    pub(super) fn pick_last_resort(
        &self,
        candidates: &Candidates,
        tried: &Tried,
        now: Instant,
    ) -> Option<Lease> {
        if self.panic != PanicPolicy::Dial {
            return None;
        }
        let pick = |health, backup| {
            let choice = Choice {
                health,
                ..self.choice(candidates, tried, now, backup)
            };
            self.pick_by(&choice)
        };
        let pick_tiers = |health| pick(health, false).or_else(|| pick(health, true));
        let lease = pick_tiers(Health::Ejected);
        if lease.is_some() {
            return lease;
        }
        let mut servers = candidates.members.iter().map(|member| &member.server);
        if servers.any(|server| server.is_not_down()) {
            // Once more: it may have come up only now.
            return pick_tiers(Health::Ejected);
        }
        pick_tiers(Health::Down)
    }

    /// Least connections while servers are beginning slowly: at most one of them takes
    /// part, drawn so that each gets no more than what [`crate::balance::slow_start`] says of the
    /// connections that come, and none of the others may have less to get this one.
    ///
    /// While there are only such servers: those that had their whole share of time, if
    /// any; else the better of two, drawn by how far each has come, for then nobody
    /// can be spared, and yet the newest must not get everything.
    #[cold]
    fn pick_least_beside_slow(&self, choice: &Choice<'_>) -> Option<Lease> {
        choice.count(|| {
            let seed = self.next_seed();
            let members = choice.candidates.members.iter().enumerate();
            let open: Vec<(usize, Open)> = members
                .filter_map(|(position, member)| {
                    let times = self.total_weight.div_ceil(member.weight.get().into());
                    let open = choice.open(member, self.pace.up_to(times))?;
                    Some((position, open))
                })
                .collect();
            let steady: fn(Open) -> bool = |open| open.seen.reached.is_none();
            let whole: fn(Open) -> bool = |open| open.seen.reached.is_none_or(|r| r >= FULL);
            let is = [steady, whole];
            let is = is
                .into_iter()
                .find(|is| open.iter().any(|&(_, open)| is(open)));
            let Some(takes_part) = is else {
                return choice.better_of_two(seed);
            };
            // Of the connections that come, each of the others has a slice.
            let slice = |open: Open| {
                let reached = open.seen.reached.filter(|_| !takes_part(open));
                u64::from(open.weight.get()) * u64::from(reached.unwrap_or(0))
            };
            let sum = |of: &dyn Fn(Open) -> u64| open.iter().map(|&(_, open)| of(open)).sum();
            let slices: u64 = sum(&slice);
            let all: u64 = sum(&|open| u64::from(open.weight.get()) * u64::from(FULL));
            let mut at = below(draw(seed, open.len()), all.max(slices));
            let mut guest = None;
            for &(position, open) in &open {
                let slice = slice(open);
                if at < slice {
                    guest = Some((position, open));
                    break;
                }
                at -= slice;
            }
            let loads = open.iter().map(|&(position, open)| {
                let load = Load {
                    in_flight: open.seen.in_flight,
                    weight: open.weight,
                };
                takes_part(open).then_some((load, (position, open)))
            });
            let (_, host) = least(loads, seed)?;
            // Of those that have as many it is the one: what it gets was drawn already.
            let (position, open) = guest
                .filter(|guest| !host.1.is_lighter_than(guest.1))
                .unwrap_or(host);
            Some((position, open.seen.word))
        })
    }
}
