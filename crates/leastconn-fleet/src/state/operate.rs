use super::{OperatorsVersion, State};
use crate::exchange::{Operate, Request};

/// Events that the store keeps.
const KEPT_EVENTS: usize = 1000;

impl State {
    /// Stores what operators set. Returns the fields that have a newer entry.
    pub(super) fn operate(&mut self, now: u64, operate: &Operate) -> Vec<String> {
        let mut rejected = Vec::new();
        let mut changed = false;
        for entry in &operate.entries {
            match self.operators.get(&entry.field) {
                Some(stored) if stored == entry => {}
                Some(stored) if stored.stamp >= entry.stamp => rejected.push(entry.field.clone()),
                _ => {
                    self.operators.insert(entry.field.clone(), entry.clone());
                    changed = true;
                }
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
            let last = self.events.last().map_or((0, 0), |(id, _)| *id);
            let id = (now / 1000, 0).max((last.0, last.1 + 1));
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
