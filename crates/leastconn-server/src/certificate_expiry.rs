//! Logs certificates and CRLs that expire while the process runs: a warning when expiry is near, a
//! second warning when it is urgent, and an error at expiry.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use leastconn_config::{CertificateFile, Dated, FileKind, Urgency};
use tokio::time::sleep;

use crate::context::ServerContext;

const INTERVAL: Duration = Duration::from_secs(1);

/// Checks for expiry once a second, for as long as the future is polled.
pub async fn watch(context: Arc<ServerContext>) {
    let mut monitor = Monitor::default();
    loop {
        let snapshot = context.snapshot();
        for event in monitor.observe(
            snapshot.generation,
            snapshot.config.certificate_files(),
            Timestamp::now(),
        ) {
            event.log();
        }
        drop(snapshot);
        sleep(INTERVAL).await;
    }
}

/// Remembers what was logged, so that each event is logged once.
#[derive(Debug, Default)]
struct Monitor {
    generation: Option<u64>,
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    kind: FileKind,
    path: PathBuf,
    dated: Dated,
    urgency: Urgency,
}

/// A certificate or CRL whose expiry has become more urgent.
#[derive(Debug, PartialEq, Eq)]
struct Event(Item);

impl Monitor {
    /// Returns the events since the last call. The files of a new configuration cause no events at
    /// first, because loading the configuration has already logged warnings about them.
    fn observe<'a>(
        &mut self,
        generation: u64,
        files: impl Iterator<Item = &'a CertificateFile>,
        now: Timestamp,
    ) -> Vec<Event> {
        if self.generation != Some(generation) {
            let is_start = self.generation.is_none();
            self.generation = Some(generation);
            self.update(files, now, is_start);
        }
        let mut events = Vec::new();
        for item in &mut self.items {
            let urgency = item.dated.urgency(now);
            if urgency > item.urgency {
                item.urgency = urgency;
                events.push(Event(item.clone()));
            }
        }
        events
    }

    /// Replaces the observed files. Warnings that were already logged, at the start or when a new
    /// file was loaded, are not repeated. After the start, loading an expired CRL is an error.
    fn update<'a>(
        &mut self,
        files: impl Iterator<Item = &'a CertificateFile>,
        now: Timestamp,
        is_start: bool,
    ) {
        let previous = std::mem::take(&mut self.items);
        for file in files {
            for dated in &file.dated {
                let is_same = |item: &&Item| item.path == file.path && item.dated == *dated;
                if self.items.iter().any(|item| is_same(&item)) {
                    continue;
                }
                let known = previous.iter().find(is_same);
                let urgency = match dated.urgency(now) {
                    // Store the urgency below `Expired`, so that `observe` returns an event.
                    Urgency::Expired if file.kind == FileKind::Lists && !is_start => {
                        Urgency::Urgent
                    }
                    urgency => urgency,
                };
                self.items.push(Item {
                    kind: file.kind,
                    path: file.path.clone(),
                    dated: dated.clone(),
                    urgency: known.map_or(urgency, |item| item.urgency),
                });
            }
        }
    }
}

impl Event {
    fn log(&self) {
        let Item {
            kind,
            path,
            dated,
            urgency,
        } = &self.0;
        let (file, name) = (path.display(), dated.name.trim_matches('`'));
        let until = dated.until;
        match (kind, urgency) {
            (FileKind::Lists, Urgency::Expired) => {
                tracing::error!(%file, issuer = name, next_update = %until, "CRL expired: certificates of its issuer are refused (crl_expired)");
            }
            (FileKind::Lists, _) => {
                tracing::warn!(%file, issuer = name, next_update = %until, "CRL expires soon");
            }
            (FileKind::Authorities, Urgency::Expired) => {
                tracing::error!(%file, subject = name, not_after = %until, "CA certificate expired: certificates that it issued are refused");
            }
            (FileKind::Chain, Urgency::Expired) => {
                tracing::error!(%file, subject = name, not_after = %until, "certificate expired: peers that verify it refuse the connection");
            }
            (FileKind::Authorities | FileKind::Chain, _) => {
                tracing::warn!(%file, subject = name, not_after = %until, "certificate expires soon");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn list(until: i64) -> CertificateFile {
        CertificateFile {
            name: "ca.crl".to_owned(),
            path: "ca.crl".into(),
            kind: FileKind::Lists,
            dated: vec![Dated {
                name: "`CN=ca`".to_owned(),
                from: at(until - 30 * DAY),
                until: at(until),
            }],
        }
    }

    #[test]
    fn each_step_is_logged_once() {
        let mut monitor = Monitor::default();
        let files = [list(30 * DAY)];
        let mut observe = |generation, day| -> Vec<Urgency> {
            let events = monitor.observe(generation, files.iter(), at(day * DAY));
            events.into_iter().map(|event| event.0.urgency).collect()
        };
        assert_eq!(observe(1, 0), []);
        assert_eq!(observe(1, 24), [Urgency::Soon]);
        assert_eq!(observe(1, 25), []);
        // A reload with an unchanged CRL repeats no event and misses no event.
        assert_eq!(observe(2, 26), []);
        assert_eq!(observe(3, 30), [Urgency::Expired]);
        assert_eq!(observe(3, 31), []);
    }

    #[test]
    fn renewed_crl_starts_over() {
        let mut monitor = Monitor::default();
        let (old, new) = ([list(30 * DAY)], [list(60 * DAY)]);
        assert!(monitor.observe(1, old.iter(), at(0)).is_empty());
        assert_eq!(monitor.observe(1, old.iter(), at(29 * DAY)).len(), 1);
        assert!(monitor.observe(2, new.iter(), at(29 * DAY)).is_empty());
        assert_eq!(monitor.observe(2, new.iter(), at(55 * DAY)).len(), 1);
    }

    #[test]
    fn loading_an_expired_crl_is_an_event() {
        let mut monitor = Monitor::default();
        let (old, new) = ([list(60 * DAY)], [list(30 * DAY)]);
        assert!(monitor.observe(1, old.iter(), at(40 * DAY)).is_empty());
        assert_eq!(monitor.observe(2, new.iter(), at(40 * DAY)).len(), 1);
        assert!(monitor.observe(3, new.iter(), at(41 * DAY)).is_empty());
    }
}
