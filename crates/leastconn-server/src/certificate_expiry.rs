//! Logs certificates and CRLs that expire while the process runs: a warning when that is
//! soon, another when it is urgent, and an error when they have expired.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::sleep;

use crate::{
    config::{CertificateFile, Dated, FileKind, Urgency},
    context::ServerContext,
};

const EVERY: Duration = Duration::from_secs(1);

/// Logs expiring certificates and CRLs for as long as it is polled.
pub async fn watch(context: Arc<ServerContext>) {
    let mut monitor = Monitor::default();
    loop {
        let state = context.snapshot();
        for event in monitor.observe(
            state.generation,
            state.config.certificate_files(),
            Timestamp::now(),
        ) {
            event.log();
        }
        drop(state);
        sleep(EVERY).await;
    }
}

/// Which steps were logged.
#[derive(Debug, Default)]
struct Monitor {
    epoch: Option<u64>,
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    kind: FileKind,
    path: PathBuf,
    dated: Dated,
    urgency: Urgency,
}

/// An item has become more urgent.
#[derive(Debug, PartialEq, Eq)]
struct Event(Item);

impl Monitor {
    /// The events since the last call. New files cause none: their warnings were logged when
    /// they were loaded.
    fn observe<'a>(
        &mut self,
        epoch: u64,
        files: impl Iterator<Item = &'a CertificateFile>,
        now: Timestamp,
    ) -> Vec<Event> {
        if self.epoch != Some(epoch) {
            let is_start = self.epoch.is_none();
            self.epoch = Some(epoch);
            self.follow(files, now, is_start);
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

    /// Files at the start have been reported already, and so have warnings about new files. A
    /// CRL that is expired when it is loaded later is still an error.
    fn follow<'a>(
        &mut self,
        files: impl Iterator<Item = &'a CertificateFile>,
        now: Timestamp,
        is_start: bool,
    ) {
        let before = std::mem::take(&mut self.items);
        for file in files {
            for dated in &file.dated {
                let is_same = |item: &&Item| item.path == file.path && item.dated == *dated;
                if self.items.iter().any(|item| is_same(&item)) {
                    continue;
                }
                let known = before.iter().find(is_same);
                let urgency = match dated.urgency(now) {
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
                tracing::error!(%file, issuer = name, next_update = %until, "revocation list expired: its issuer's certificates are refused (crl_expired)");
            }
            (FileKind::Lists, _) => {
                tracing::warn!(%file, issuer = name, next_update = %until, "revocation list expires soon");
            }
            (FileKind::Authorities, Urgency::Expired) => {
                tracing::error!(%file, subject = name, not_after = %until, "authority expired: what it issued is refused");
            }
            (FileKind::Chain, Urgency::Expired) => {
                tracing::error!(%file, subject = name, not_after = %until, "certificate expired: peers that check it refuse it");
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
    fn each_step_is_an_event_once() {
        let mut monitor = Monitor::default();
        let files = [list(30 * DAY)];
        let mut observe = |epoch, day| -> Vec<Urgency> {
            let events = monitor.observe(epoch, files.iter(), at(day * DAY));
            events.into_iter().map(|event| event.0.urgency).collect()
        };
        assert_eq!(observe(1, 0), []);
        assert_eq!(observe(1, 24), [Urgency::Soon]);
        assert_eq!(observe(1, 25), []);
        // A reload that leaves the list as it is repeats nothing and misses nothing.
        assert_eq!(observe(2, 26), []);
        assert_eq!(observe(3, 30), [Urgency::Expired]);
        assert_eq!(observe(3, 31), []);
    }

    #[test]
    fn renewed_list_begins_anew() {
        let mut monitor = Monitor::default();
        let (old, new) = ([list(30 * DAY)], [list(60 * DAY)]);
        assert!(monitor.observe(1, old.iter(), at(0)).is_empty());
        assert_eq!(monitor.observe(1, old.iter(), at(29 * DAY)).len(), 1);
        assert!(monitor.observe(2, new.iter(), at(29 * DAY)).is_empty());
        assert_eq!(monitor.observe(2, new.iter(), at(55 * DAY)).len(), 1);
    }

    #[test]
    fn expired_list_that_is_loaded_is_an_event() {
        let mut monitor = Monitor::default();
        let (old, new) = ([list(60 * DAY)], [list(30 * DAY)]);
        assert!(monitor.observe(1, old.iter(), at(40 * DAY)).is_empty());
        assert_eq!(monitor.observe(2, new.iter(), at(40 * DAY)).len(), 1);
        assert!(monitor.observe(3, new.iter(), at(41 * DAY)).is_empty());
    }
}
