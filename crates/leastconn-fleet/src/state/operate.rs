use super::{OperatorsVersion, State};
use crate::{
    exchange::{Operate, Rejected, Request},
    operator_log::sha1,
};

/// Events that the store keeps.
const KEPT_EVENTS: usize = 1000;

impl State {
    /// Stores what operators set.
    pub(super) fn operate(&mut self, now: u64, operate: &Operate) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let mut changed = false;
        for change in &operate.entries {
            let field = &change.field;
            let stored = self.operators.get(field);
            let digest = stored.map(|stored| sha1(&stored.to_string()));
            let is_replaced = digest.as_ref() == Some(&change.replaces);
            let Some(entry) = &change.entry else {
                if is_replaced {
                    self.operators.remove(field);
                    changed = true;
                }
                continue;
            };
            let is_older = stored.is_none_or(|stored| stored.order() < entry.order());
            if is_older || is_replaced {
                self.operators.insert(field.clone(), entry.clone());
                changed = true;
            } else if let (Some(stored), Some(digest)) = (stored, digest)
                && stored != entry
            {
                rejected.push(Rejected {
                    field: field.clone(),
                    text: stored.to_string(),
                    digest,
                });
            }
        }
        if changed {
            self.operators
                .retain(|_, entry| entry.expires == 0 || entry.expires > now);
            self.operators_version = OperatorsVersion {
                changed: now,
                changes: self.operators_version.changes + 1,
            };
        }
        for event in &operate.events {
            let last = self.last_event;
            let id = (now / 1000, 0).max((last.0, last.1 + 1));
            self.last_event = id;
            self.events.push((id, event.clone()));
        }
        let excess = self.events.len().saturating_sub(KEPT_EVENTS);
        self.events.drain(..excess);
        rejected
    }

    pub(super) fn changed_operators(
        &self,
        request: &Request,
    ) -> Option<(String, Vec<(String, String)>)> {
        let OperatorsVersion { changed, changes } = self.operators_version;
        let version = format!("{changed}.{changes}");
        (version != request.beat.operators_version).then(|| {
            let entries = self.operators.values();
            let entries = entries.map(|entry| (entry.field.clone(), entry.to_string()));
            (version, entries.collect())
        })
    }
}
