//! One source of servers: its members, and the time of the next look-up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::{
    ServerId, ServerSpec,
    backoff::share,
    net::{self, now},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    LookupError,
    members::{Answer, FoundServer, Limits, Members},
    srv_names::{NameHandover, SrvNames},
};
use leastconn_config::{Discovery, ServerSource, SourceKind};

/// Minimum time between two look-ups.
const MIN_REFRESH: Duration = Duration::from_secs(1);

/// A source of servers. It is kept across reloads, so that its servers stay members.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) kind: SourceKind,
    state: Mutex<State>,
    /// Whether there was an answer with servers.
    answered: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    members: Members,
    names: SrvNames,
    started: Instant,
    last_answer: Option<Instant>,
    error: Option<Arc<str>>,
    /// Consecutive look-ups without servers.
    failures: u32,
    next_lookup: Instant,
    counts: LookupCounts,
}

/// Number of look-ups by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// With servers in the answer.
    pub answered: u64,
    /// The answer has no servers, for example because the name does not exist.
    pub empty: u64,
    /// Without an answer.
    pub failed: u64,
}

/// The state of a source, for display.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    pub kind: SourceKind,
    /// The names of the servers that are members because of this source.
    pub servers: Vec<ServerId>,
    /// Time since the last answer with servers or, if there was none, since the start.
    pub age: Duration,
    /// Whether there was an answer with servers.
    pub is_answered: bool,
    /// Why the last look-up found no servers, or why its answer is incomplete.
    pub error: Option<Arc<str>>,
    pub counts: LookupCounts,
}

impl Source {
    pub(super) fn new(kind: SourceKind) -> Self {
        let now = now();
        Self {
            kind,
            state: Mutex::new(State {
                members: Members::default(),
                names: SrvNames::default(),
                started: now,
                last_answer: None,
                error: None,
                failures: 0,
                next_lookup: now,
                counts: LookupCounts::default(),
            }),
            answered: watch::Sender::new(false),
        }
    }

    /// The members. Fields that the source does not specify get the defaults of `config`.
    pub(super) fn servers(&self, config: &ServerSource) -> Vec<ServerSpec> {
        let state = self.state.lock();
        let spec = |found: &FoundServer| {
            ServerSpec::new(found.id.clone(), found.address.clone())
                .weight(found.weight.unwrap_or(config.weight))
                .max_conns(found.max_conns.unwrap_or(config.max_conns))
                .backup(found.backup.unwrap_or(config.backup))
                .zone(found.zone.clone().or_else(|| config.zone.clone()))
        };
        state.members.servers().map(spec).collect()
    }

    pub(super) fn next_lookup(&self) -> Instant {
        self.state.lock().next_lookup
    }

    /// Makes the next look-up due immediately, because the settings have changed.
    pub(super) fn look_up_soon(&self) {
        self.state.lock().next_lookup = now();
    }

    /// The time of the last answer, the members and the names of SRV targets. `None` if there has
    /// been no answer.
    pub(super) fn export(&self) -> Option<(Instant, Vec<FoundServer>, Vec<NameHandover>)> {
        let names = self.names();
        let state = self.state.lock();
        let servers = state.members.servers().cloned().collect();
        Some((state.last_answer?, servers, names.export()))
    }

    /// Until the first answer, uses the members that a predecessor process has found.
    pub(super) fn import(&self, last_answer: Instant, servers: Vec<FoundServer>, names: SrvNames) {
        let mut state = self.state.lock();
        state.members = Members::from(servers);
        state.names = names;
        state.last_answer = Some(last_answer);
        drop(state);
        self.answered.send_replace(true);
    }

    /// The names of SRV targets.
    pub(super) fn names(&self) -> SrvNames {
        let state = self.state.lock();
        let mut names = state.names.clone();
        names.set_members(state.members.servers().map(|server| &server.id));
        names
    }

    pub(super) fn set_names(&self, names: SrvNames) {
        self.state.lock().names = names;
    }

    /// Waits for the first answer with servers.
    pub(super) async fn first_answer(&self) {
        let mut answered = self.answered.subscribe();
        // An error is impossible: `self` owns the sender.
        let _ = answered.wait_for(|&answered| answered).await;
    }

    pub(super) fn is_answered(&self) -> bool {
        *self.answered.borrow()
    }

    /// Merges the result of a look-up, and schedules the next one.
    pub(super) fn record(
        &self,
        result: Result<Answer, LookupError>,
        settings: &Discovery,
    ) -> Recorded {
        let mut state = self.state.lock();
        let recorded = state.record(now(), result, settings);
        drop(state);
        if recorded.is_answer {
            self.answered.send_replace(true);
        }
        recorded
    }

    pub(super) fn status(&self) -> SourceStatus {
        let state = self.state.lock();
        let servers = state.members.servers().map(|server| server.id.clone());
        let since = state.last_answer.unwrap_or(state.started);
        SourceStatus {
            kind: self.kind.clone(),
            servers: servers.collect(),
            age: now().saturating_duration_since(since),
            is_answered: self.is_answered(),
            error: state.error.clone(),
            counts: state.counts,
        }
    }
}

/// The result of [`Source::record`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) is_answer: bool,
    /// The error, if it differs from that of the previous look-up.
    pub(super) new_error: Option<Arc<str>>,
    /// Whether servers were ignored because of `max`.
    pub(super) is_over_max: bool,
    /// Whether this is the first answer without an error after an error.
    pub(super) recovered: bool,
}

impl State {
    fn record(
        &mut self,
        now: Instant,
        result: Result<Answer, LookupError>,
        settings: &Discovery,
    ) -> Recorded {
        let limits = Limits {
            hold: settings.hold,
            max: settings.max,
        };
        let merged = result.and_then(|answer| {
            let ignored = self.members.merge(now, &answer, limits)?;
            Ok((answer.ttl, ignored, answer.problem))
        });
        let (error, ttl) = match &merged {
            Ok((ttl, ignored, problem)) => {
                let too_many = (*ignored > 0).then(|| too_many(*ignored, settings.max));
                let incomplete = problem.as_ref().map(|text| format!("incomplete: {text}"));
                let errors: Vec<_> = too_many.into_iter().chain(incomplete).collect();
                ((!errors.is_empty()).then(|| errors.join("; ")), *ttl)
            }
            Err(error) => (Some(error.to_string()), None),
        };
        match &merged {
            Ok(_) => {
                self.counts.answered += 1;
                self.failures = 0;
                self.last_answer = Some(now);
            }
            Err(error) => {
                let count = if error.is_empty_answer() {
                    &mut self.counts.empty
                } else {
                    &mut self.counts.failed
                };
                *count += 1;
                self.failures = self.failures.saturating_add(1);
            }
        }
        let delay = delay(settings.refresh, ttl, self.failures);
        let delay = (delay - share(delay / 10, net::random())).max(MIN_REFRESH);
        let next = now + delay;
        // Look up as soon as a missing server may be removed. After a failure, the back-off applies
        // instead. A time in the past belongs to a server that this answer could not remove,
        // because a part of the look-up failed.
        let removal = self.members.next_removal(settings.hold);
        let removal = removal
            .filter(|&removal| merged.is_ok() && removal > now)
            .map(|removal| removal.max(now + MIN_REFRESH));
        self.next_lookup = removal.map_or(next, |removal| removal.min(next));
        let error = error.map(Arc::<str>::from);
        let new_error = error.clone().filter(|_| error != self.error);
        let recovered = self.error.is_some() && error.is_none();
        self.error = error;
        Recorded {
            is_answer: merged.is_ok(),
            new_error,
            is_over_max: matches!(merged, Ok((_, ignored, _)) if ignored > 0),
            recovered,
        }
    }
}

fn too_many(ignored: usize, max: usize) -> String {
    let servers = if ignored == 1 { "server" } else { "servers" };
    format!("{ignored} {servers} ignored: there are more than `max = {max}`")
}

/// Returns the time until the next look-up. After failures, it grows from one second to `refresh`.
fn delay(refresh: Duration, ttl: Option<Duration>, failures: u32) -> Duration {
    let most = if failures == 0 {
        ttl.unwrap_or(refresh)
    } else {
        let doublings = (failures - 1).min(16);
        MIN_REFRESH * 2_u32.saturating_pow(doublings)
    };
    most.min(refresh).max(MIN_REFRESH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::discovery::{dns::DnsError, members::UnknownServers};

    fn answer(ttl: u64) -> Answer {
        let server = FoundServer::new("a".into(), "10.0.0.1:80".parse().unwrap());
        Answer {
            ttl: Some(Duration::from_secs(ttl)),
            ..Answer::complete(vec![server])
        }
    }

    fn source() -> Source {
        Source::new(SourceKind::Srv("_http._tcp.web".into()))
    }

    #[test]
    fn ttl_shortens_the_time_between_lookups() {
        let seconds = Duration::from_secs;
        let delay = |ttl, failures| delay(seconds(10), Some(seconds(ttl)), failures);
        assert_eq!(delay(600, 0), seconds(10));
        assert_eq!(delay(5, 0), seconds(5));
        assert_eq!(delay(0, 0), seconds(1));
        let after_failures: Vec<_> = (1..7).map(|failures| delay(600, failures)).collect();
        assert_eq!(after_failures, [1, 2, 4, 8, 10, 10].map(seconds));
    }

    #[test]
    fn failures_keep_servers_and_are_reported_once() {
        let source = source();
        let settings = Discovery::default();
        let config = ServerSource {
            kind: source.kind.clone(),
            weight: leastconn::Weight::ONE,
            max_conns: None,
            backup: false,
            zone: None,
        };
        assert!(source.record(Ok(answer(5)), &settings).is_answer);
        let failed = || Err(LookupError::Dns(DnsError::NoSuchName));
        let first = source.record(failed(), &settings);
        assert!(first.new_error.is_some() && !first.is_answer);
        assert_eq!(source.record(failed(), &settings).new_error, None);
        assert_eq!(source.servers(&config).len(), 1);
        assert!(source.status().error.unwrap().contains("NXDOMAIN"));
        assert!(source.record(Ok(answer(5)), &settings).recovered);
        let status = source.status();
        assert_eq!((status.counts.answered, status.counts.empty), (2, 2));
        assert_eq!(status.error, None);
    }

    #[test]
    fn next_lookup_is_due_at_the_end_of_hold() {
        let source = source();
        let settings = Discovery {
            refresh: Duration::from_secs(3600),
            hold: Duration::from_secs(5),
            ..Discovery::default()
        };
        source.record(Ok(answer(3600)), &settings);
        let mut other = answer(3600);
        other.servers[0].id = "b".into();
        source.record(Ok(other), &settings);
        let due = source.next_lookup().saturating_duration_since(now());
        assert!(due <= Duration::from_secs(5), "{due:?}");
    }

    #[test]
    fn failed_lookups_back_off_while_a_server_is_missing() {
        let source = source();
        let seconds = Duration::from_secs;
        let settings = Discovery {
            refresh: seconds(3600),
            hold: seconds(5),
            ..Discovery::default()
        };
        let start = now();
        let mut state = source.state.lock();
        let mut record = |second, result| {
            let now = start + seconds(second);
            let _ = state.record(now, result, &settings);
            state.next_lookup.saturating_duration_since(now)
        };
        record(0, Ok(answer(3600)));
        let mut other = answer(3600);
        other.servers[0].id = "b".into();
        assert_eq!(record(1, Ok(other.clone())), seconds(5));
        for (second, expected) in [(2, 1), (3, 2), (5, 4), (9, 8), (17, 16), (33, 32)] {
            let next = record(second, Err(DnsError::TimedOut.into()));
            // Up to a tenth shorter, so that instances do not look up at the same time.
            assert!(next <= seconds(expected), "{next:?}");
            assert!(
                next >= (seconds(expected) * 9 / 10).max(MIN_REFRESH),
                "{next:?}"
            );
        }
        // An answer that cannot remove the missing server does not shorten `refresh` either.
        let incomplete = Answer {
            unknown: vec![UnknownServers::V4],
            ..other
        };
        let next = record(65, Ok(incomplete));
        assert!(next >= seconds(3240), "{next:?}");
    }

    #[test]
    fn incomplete_answer_is_shown_and_reported_once() {
        let source = source();
        let settings = Discovery::default();
        let incomplete = || Answer {
            problem: Some("AAAA: Server Failure".to_owned()),
            ..answer(5)
        };
        let first = source.record(Ok(incomplete()), &settings);
        let text = "incomplete: AAAA: Server Failure";
        assert_eq!(first.new_error.as_deref(), Some(text));
        assert!(first.is_answer && !first.is_over_max);
        assert_eq!(source.record(Ok(incomplete()), &settings).new_error, None);
        let status = source.status();
        assert_eq!(status.error.as_deref(), Some(text));
        assert_eq!((status.counts.answered, status.counts.failed), (2, 0));
        assert!(source.record(Ok(answer(5)), &settings).recovered);
        assert_eq!(source.status().error, None);
    }
}
