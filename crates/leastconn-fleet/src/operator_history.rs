use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    exchange::StoredEntry,
    operator_log::{Content, SignedEntries},
};

/// What operators have set in a fleet, for the next connection of this process to the fleet: its
/// store may be another one, and the entries of the old store may be signed with another secret.
/// Clones share the same history.
#[derive(Clone, Default)]
pub struct OperatorHistory(Arc<Mutex<Known>>);

#[derive(Clone, Default)]
pub(crate) struct Known {
    pub(crate) entries: Arc<SignedEntries>,
    /// The time of the last answer of the store.
    pub(crate) now: Option<u64>,
}

/// An [`OperatorHistory`] for another process. The content is trusted: entries whose signature is
/// of another secret are signed again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedHistory {
    #[serde(default)]
    now: Option<u64>,
    /// Fields and values as in the store.
    #[serde(default)]
    entries: Vec<(String, String)>,
}

impl OperatorHistory {
    /// A copy that does not follow later changes of `self`.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.known())))
    }

    pub fn save(&self) -> SavedHistory {
        let known = self.0.lock();
        let entries = known.entries.iter();
        SavedHistory {
            now: known.now,
            entries: entries
                .map(|(field, (entry, _))| (field.clone(), entry.to_string()))
                .collect(),
        }
    }

    /// Ignores entries that this version does not understand.
    pub fn restore(saved: &SavedHistory) -> Self {
        let entries = saved.entries.iter().filter_map(|(field, text)| {
            let entry = StoredEntry::parse(field, text)?;
            let content = Content::parse(&entry)?;
            Some((field.clone(), (entry, content)))
        });
        let known = Known {
            entries: Arc::new(entries.collect()),
            now: saved.now,
        };
        Self(Arc::new(Mutex::new(known)))
    }

    pub(crate) fn known(&self) -> Known {
        self.0.lock().clone()
    }

    /// The store has answered at `now`. `entries`: all entries, if any has changed.
    pub(crate) fn update(&self, now: u64, entries: Option<&Arc<SignedEntries>>) {
        let mut known = self.0.lock();
        known.now = Some(now);
        if let Some(entries) = entries {
            known.entries.clone_from(entries);
        }
    }
}

impl fmt::Debug for OperatorHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorHistory(..)")
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        operator::{BlockTarget, Command},
        operator_log::OperatorLog,
        secret::Secret,
    };

    use super::*;

    #[test]
    fn restored_history_has_the_same_entries() {
        let mut log = OperatorLog::new("edge", Secret::new(b"secret of the fleet"));
        let command = Command::Block {
            target: BlockTarget::Identity("cn:a b".to_owned()),
            duration: None,
        };
        let entry = log.change(5, &command).unwrap().entry.unwrap();
        log.merge(5, &[(entry.field.clone(), entry.to_string())]);
        let history = OperatorHistory::default();
        history.update(7, Some(log.entries()));

        let mut saved = history.save();
        saved
            .entries
            .push(("block/x".to_owned(), "1 0 1 x".to_owned()));
        let json = serde_json::to_string(&saved).unwrap();
        let restored = OperatorHistory::restore(&serde_json::from_str(&json).unwrap()).known();
        assert_eq!(restored.now, Some(7));
        assert_eq!(&restored.entries, log.entries());
    }
}
