//! Periods during which servers at `max_conns` cause connections to be refused or to wait.
//!
//! A period begins with the first such connection. It ends when the servers have free slots and no
//! connection has been refused or has waited for [`QUIET`], so that an upstream whose load is near
//! its limit does not cause a message for every connection. Picks that find a server do not report
//! anything, so they cost nothing.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use super::{Candidates, Selector};
use crate::{
    spec::ServerId,
    sync::{Arc, Mutex},
};

/// How long no connection must have been refused or have waited before a period ends.
pub(crate) const QUIET: Duration = Duration::from_secs(5);

/// Maximum number of periods of one upstream: one for each set of servers that clients may use.
const MAX_PERIODS: usize = 16;

/// What happens to a connection whose servers are all at `max_conns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FullEffect {
    Queued,
    Refused,
}

/// The servers that a connection may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FullServers {
    pub(crate) names: Vec<ServerId>,
    /// Number of available servers among them. All of these are full.
    pub(crate) full: usize,
    /// Whether these are all servers of the upstream.
    pub(crate) is_whole: bool,
}

/// A period that has ended.
#[derive(Debug)]
pub(crate) struct FullPeriod {
    pub(crate) servers: FullServers,
    pub(crate) duration: Duration,
    pub(crate) refused: u64,
    pub(crate) queued: u64,
}

/// The current periods of an upstream.
#[derive(Debug, Default)]
pub(crate) struct FullPeriods(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    periods: Vec<Period>,
    /// Whether a task ends the periods.
    is_watched: bool,
}

#[derive(Debug)]
struct Period {
    key: u64,
    /// Of the first connection.
    selector: Selector,
    servers: FullServers,
    since: Instant,
    last: Instant,
    refused: u64,
    queued: u64,
}

/// What to do after a connection was reported.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FullReport {
    /// The servers to name in a log message: for the first connection of a period, and for the first
    /// that is refused.
    pub(crate) news: Option<FullServers>,
    /// Whether to start a task that calls [`FullPeriods::end`].
    pub(crate) starts_watch: bool,
}

impl FullPeriods {
    /// Records a connection of a client that may use `candidates`. `all` are the members of the
    /// upstream. Has no effect unless all available candidates are full.
    pub(crate) fn report(
        &self,
        selector: &Selector,
        candidates: &Candidates,
        all: &Candidates,
        effect: FullEffect,
        now: Instant,
    ) -> FullReport {
        let mut state = self.0.lock();
        let mut key = key_of(candidates);
        let mut period = state.position(key);
        if period.is_none() && full_servers(candidates, now).is_some() {
            // While the whole upstream is full, a part of it is no news.
            let of_all = key_of(all);
            if let Some(whole) = state.position(of_all)
                && full_servers(all, now).is_some()
            {
                (key, period) = (of_all, Some(whole));
            }
        }
        let mut report = FullReport::default();
        let at = match period {
            Some(at) => at,
            None => {
                let Some(full) = full_servers(candidates, now) else {
                    return report;
                };
                if state.periods.len() == MAX_PERIODS {
                    return report;
                }
                let members = candidates.members().iter();
                let servers = FullServers {
                    names: members.map(|member| member.server.id().clone()).collect(),
                    full,
                    is_whole: candidates.members().len() == all.members().len(),
                };
                report.news = Some(servers.clone());
                state.periods.push(Period {
                    key,
                    selector: selector.clone(),
                    servers,
                    since: now,
                    last: now,
                    refused: 0,
                    queued: 0,
                });
                state.periods.len() - 1
            }
        };
        report.starts_watch = !std::mem::replace(&mut state.is_watched, true);
        if let Some(period) = state.periods.get_mut(at) {
            period.last = now;
            match effect {
                FullEffect::Queued => period.queued += 1,
                FullEffect::Refused => {
                    period.refused += 1;
                    if period.refused == 1 {
                        report.news = Some(period.servers.clone());
                    }
                }
            }
        }
        report
    }

    /// Ends the periods of servers with free slots. Returns them, and whether others continue. If
    /// none continues, the caller must stop calling this method.
    pub(crate) fn end(
        &self,
        candidates: impl Fn(&Selector) -> Option<Candidates>,
        now: Instant,
    ) -> (Vec<FullPeriod>, bool) {
        let mut state = self.0.lock();
        let ended = state.periods.extract_if(.., |period| {
            now.saturating_duration_since(period.last) >= QUIET
                && candidates(&period.selector)
                    .is_none_or(|candidates| full_servers(&candidates, now).is_none())
        });
        let ended = ended.map(|period| FullPeriod {
            duration: now.saturating_duration_since(period.since),
            servers: period.servers,
            refused: period.refused,
            queued: period.queued,
        });
        let ended = ended.collect();
        state.is_watched = !state.periods.is_empty();
        (ended, state.is_watched)
    }
}

impl State {
    fn position(&self, key: u64) -> Option<usize> {
        self.periods.iter().position(|period| period.key == key)
    }
}

/// Returns the number of full servers. Returns `None` if an available server has a free slot, or if
/// no server is available.
fn full_servers(candidates: &Candidates, now: Instant) -> Option<usize> {
    let members = candidates.members().iter();
    let mut available = members.filter(|member| member.server.is_available());
    let mut full = 0;
    available
        .all(|member| {
            full += 1;
            member.is_full(now)
        })
        .then_some(full)
        .filter(|&full| full > 0)
}

/// Equal for candidates with the same servers, even if different rules grant them.
fn key_of(candidates: &Candidates) -> u64 {
    let mut hasher = DefaultHasher::new();
    for member in candidates.members().iter() {
        Arc::as_ptr(&member.server).addr().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![expect(clippy::expect_used, reason = "helper of tests")]

    use std::num::NonZeroU32;

    use super::*;
    use crate::{Pool, ServerSpec, Tried, net::now};

    fn pool() -> Pool {
        let server = |name: &str| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            let mut server = ServerSpec::new(name, address);
            server.max_conns = NonZeroU32::new(1);
            server
        };
        let pool = Pool::builder("web").servers([server("a"), server("b")]);
        pool.build().expect("the names differ")
    }

    #[test]
    fn each_period_is_reported_once() {
        let (pool, periods, start) = (pool(), FullPeriods::default(), now());
        let selector = Selector::all();
        let report = |effect, seconds| {
            let now = start + Duration::from_secs(seconds);
            periods.report(&selector, &pool.all(), &pool.all(), effect, now)
        };
        let end = |seconds| periods.end(|_| Some(pool.all()), start + Duration::from_secs(seconds));
        // No server is full.
        assert_eq!(report(FullEffect::Refused, 0), FullReport::default());
        let pick = || pool.pick(&pool.all(), &Tried::default(), start).unwrap();
        let leases = [pick(), pick()];
        let first = report(FullEffect::Queued, 1);
        let servers = first.news.unwrap();
        assert!(first.starts_watch && servers.is_whole && servers.full == 2);
        assert_eq!(report(FullEffect::Queued, 2), FullReport::default());
        // The first connection that is refused is news.
        assert!(report(FullEffect::Refused, 3).news.is_some());
        assert_eq!(report(FullEffect::Refused, 4), FullReport::default());

        // Without connections, but still full.
        assert!(matches!(end(60), (ended, true) if ended.is_empty()));
        drop(leases);
        assert_eq!(report(FullEffect::Refused, 61), FullReport::default());
        assert!(matches!(end(62), (ended, true) if ended.is_empty()));
        let (ended, continues) = end(66);
        assert!(!continues);
        assert_eq!((ended[0].queued, ended[0].refused), (2, 3));
        assert_eq!(ended[0].duration, Duration::from_secs(65));
    }

    #[test]
    fn parts_of_a_full_upstream_are_no_news() {
        let (pool, periods, now) = (pool(), FullPeriods::default(), now());
        let report = |names: &[&str]| {
            let selector = Selector::named(names.iter().copied());
            let candidates = pool.candidates(&selector);
            let effect = FullEffect::Refused;
            periods.report(&selector, &candidates, &pool.all(), effect, now)
        };
        let lease = pool.pick(
            &pool.candidates(&Selector::named(["a"])),
            &Tried::default(),
            now,
        );
        let part = report(&["a"]).news.unwrap();
        assert!(!part.is_whole);
        assert_eq!(part.names, [ServerId::from("a")]);
        // Another rule with the same servers.
        assert_eq!(report(&["a"]).news, None);
        let other = pool.pick(&pool.all(), &Tried::default(), now);
        assert!(report(&["a", "b"]).news.unwrap().is_whole);
        assert_eq!(report(&["b"]).news, None);
        drop((lease, other));
        let (ended, _) = periods.end(|selector| Some(pool.candidates(selector)), now + QUIET);
        let refused: Vec<_> = ended.iter().map(|period| period.refused).collect();
        assert_eq!(refused, [2, 2]);
    }
}
