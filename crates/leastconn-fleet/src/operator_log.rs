//! Signed states that operators set: for each server and each blocked client, the latest entry
//! wins.
//!
//! An entry has a stamp: the time of the command by the store's clock, and in any case greater
//! than the stamp of the entry that it replaces. Every member keeps the entries that it knows.
//! If a failover loses a command, or the store restarts empty, the members restore their entries,
//! and the stamps decide. Removing a state (`ready`, `100%`, `unblock`) is an entry too, which is
//! kept for a day, as is a block that has ended, so that a member that was cut off does not
//! restore the old state.

use std::{collections::BTreeMap, fmt, time::Duration};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::{
    exchange::{StoredEntry, micros},
    operator::{Block, BlockTarget, Command, OperatorState, ServerState, ServerWeight},
    secret::Secret,
};

const KEEP_REMOVED: u64 = 24 * 3600 * 1_000_000;

/// The content of an entry, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Content {
    State {
        upstream: String,
        server: String,
        state: String,
        grace_ms: u64,
    },
    Weight {
        upstream: String,
        server: String,
        weight: String,
    },
    Block {
        #[serde(flatten)]
        target: BlockTarget,
        /// Microseconds of the store's clock.
        until: Option<u64>,
    },
    Unblock {
        #[serde(flatten)]
        target: BlockTarget,
    },
}

/// The latest entry of each field.
pub(crate) type SignedEntries = BTreeMap<String, (StoredEntry, Content)>;

pub(crate) struct OperatorLog {
    fleet: String,
    secret: Secret,
    entries: SignedEntries,
    /// The time of the last call of `expire`.
    checked: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Merge {
    /// Entries of the store that were ignored, because their signature or content is wrong.
    pub(crate) invalid: usize,
    /// Entries that the store has lost.
    pub(crate) restore: Vec<StoredEntry>,
}

impl OperatorLog {
    pub(crate) fn new(fleet: &str, secret: Secret) -> Self {
        Self {
            fleet: fleet.to_owned(),
            secret,
            entries: BTreeMap::new(),
            checked: 0,
        }
    }

    /// Takes the entries of an earlier session. An entry with another signature is signed again,
    /// with a greater stamp, so that it replaces the old one in the store.
    pub(crate) fn resume(&mut self, earlier: SignedEntries) {
        for (field, (entry, content)) in earlier {
            let resumed = match self.verified(&field, &entry.to_string()) {
                Some((entry, _)) => Some(entry),
                None => self.sign(field.clone(), entry.stamp.saturating_add(1), &content),
            };
            if let Some(entry) = resumed {
                self.entries.insert(field, (entry, content));
            }
        }
    }

    pub(crate) const fn entries(&self) -> &SignedEntries {
        &self.entries
    }

    /// The signed entry of a command. `None`: the command is not a state.
    pub(crate) fn entry(&self, now: u64, command: &Command) -> Option<StoredEntry> {
        let content = Content::new(now, command)?;
        let field = content.field();
        let known = self.entries.get(&field);
        let stamp = known.map_or(now, |(known, _)| now.max(known.stamp.saturating_add(1)));
        self.sign(field, stamp, &content)
    }

    fn sign(&self, field: String, stamp: u64, content: &Content) -> Option<StoredEntry> {
        let expires = content.expires(stamp);
        let json = serde_json::to_string(content).ok()?;
        let signature = self
            .secret
            .sign(&self.signed(&field, &stamp.to_string(), &json));
        Some(StoredEntry {
            field,
            stamp,
            expires,
            value: format!("{signature} {json}"),
        })
    }

    /// Takes the entries of the store.
    pub(crate) fn merge(&mut self, now: u64, stored: &[(String, String)]) -> Merge {
        let mut merge = Merge::default();
        let mut found = BTreeMap::new();
        for (field, text) in stored {
            let Some((entry, content)) = self.verified(field, text) else {
                merge.invalid += 1;
                continue;
            };
            found.insert(field.clone(), entry.stamp);
            let known = self.entries.get(field);
            if known.is_none_or(|(known, _)| known.stamp < entry.stamp) {
                self.entries.insert(field.clone(), (entry, content));
            }
        }
        self.expire(now);
        let lost = self.entries.values().filter(|(entry, _)| {
            let stored = found.get(&entry.field);
            stored.is_none_or(|stamp| *stamp < entry.stamp)
        });
        merge.restore = lost.map(|(entry, _)| entry.clone()).collect();
        merge
    }

    /// Removes expired entries. Returns whether any was removed, or a block has ended.
    pub(crate) fn expire(&mut self, now: u64) -> bool {
        let before = self.entries.len();
        let checked = std::mem::replace(&mut self.checked, now);
        let mut contents = self.entries.values().map(|(_, content)| content);
        let ended = contents.any(|content| content.has_ended(now) != content.has_ended(checked));
        self.entries
            .retain(|_, (entry, _)| entry.expires == 0 || entry.expires > now);
        ended || self.entries.len() < before
    }

    /// Forgets all entries: those of the store are newer.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(crate) fn state(&self, now: u64) -> OperatorState {
        let mut state = OperatorState::default();
        let mut digest = Context::new(&SHA256);
        for (entry, content) in self.entries.values() {
            digest.update(entry.field.as_bytes());
            digest.update(&entry.stamp.to_be_bytes());
            digest.update(&[u8::from(content.has_ended(now))]);
            if content.has_ended(now) {
                continue;
            }
            match content.clone() {
                Content::State { state, .. } if state == "ready" => {}
                Content::State {
                    upstream,
                    server,
                    state: set,
                    grace_ms,
                } => state.states.push(ServerState {
                    upstream,
                    server,
                    state: set,
                    grace: Duration::from_millis(grace_ms),
                }),
                Content::Weight { weight, .. } if weight == "100%" => {}
                Content::Weight {
                    upstream,
                    server,
                    weight,
                } => state.weights.push(ServerWeight {
                    upstream,
                    server,
                    weight,
                }),
                Content::Block { target, until } => state.blocks.push(Block {
                    target,
                    remaining: until.map(|until| Duration::from_micros(until.saturating_sub(now))),
                }),
                Content::Unblock { .. } => {}
            }
        }
        if let Some(version) = digest.finish().as_ref().first_chunk() {
            state.version = u64::from_be_bytes(*version);
        }
        state
    }

    fn verified(&self, field: &str, text: &str) -> Option<(StoredEntry, Content)> {
        let entry = StoredEntry::parse(field, text)?;
        let (signature, json) = entry.value.split_once(' ')?;
        let stamp = entry.stamp.to_string();
        if !self
            .secret
            .verify(&self.signed(field, &stamp, json), signature)
        {
            return None;
        }
        let content = Content::parse(&entry)?;
        Some((entry, content))
    }

    fn signed<'a>(&'a self, field: &'a str, stamp: &'a str, json: &'a str) -> [&'a str; 5] {
        [&self.fleet, "operator", field, stamp, json]
    }
}

impl Content {
    /// The content of an entry, if it agrees with the other parts of the entry. The signature is
    /// not verified.
    pub(crate) fn parse(entry: &StoredEntry) -> Option<Self> {
        let (_, json) = entry.value.split_once(' ')?;
        let content: Self = serde_json::from_str(json).ok()?;
        let agrees =
            content.field() == entry.field && content.expires(entry.stamp) == entry.expires;
        agrees.then_some(content)
    }

    fn new(now: u64, command: &Command) -> Option<Self> {
        Some(match command.clone() {
            Command::State {
                upstream,
                server,
                state,
                grace,
            } => Self::State {
                upstream,
                server,
                state,
                grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            },
            Command::Weight {
                upstream,
                server,
                weight,
            } => Self::Weight {
                upstream,
                server,
                weight,
            },
            Command::Block { target, duration } => Self::Block {
                target,
                until: duration.map(|duration| now.saturating_add(micros(duration))),
            },
            Command::Unblock { target } => Self::Unblock { target },
            Command::Kill { .. } => return None,
        })
    }

    fn field(&self) -> String {
        match self {
            Self::State {
                upstream, server, ..
            } => format!("state/{upstream}/{server}"),
            Self::Weight {
                upstream, server, ..
            } => format!("weight/{upstream}/{server}"),
            Self::Block { target, .. } | Self::Unblock { target } => match target {
                BlockTarget::Identity(identity) => format!("block/identity/{identity}"),
                BlockTarget::Serial(serial) => format!("block/serial/{serial}"),
            },
        }
    }

    fn has_ended(&self, now: u64) -> bool {
        matches!(self, Self::Block { until: Some(until), .. } if *until <= now)
    }

    fn expires(&self, stamp: u64) -> u64 {
        let removed = match self {
            Self::State { state, .. } => state == "ready",
            Self::Weight { weight, .. } => weight == "100%",
            // The ended block is kept, as the removal of a state is.
            Self::Block { until, .. } => {
                return until.map_or(0, |until| until.max(stamp).saturating_add(KEEP_REMOVED));
            }
            Self::Unblock { .. } => true,
        };
        if removed {
            stamp.saturating_add(KEEP_REMOVED)
        } else {
            0
        }
    }
}

impl StoredEntry {
    /// The inverse of `Display`.
    pub(crate) fn parse(field: &str, text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        Some(Self {
            field: field.to_owned(),
            stamp: parts.next()?.parse().ok()?,
            expires: parts.next()?.parse().ok()?,
            value: parts.next()?.to_owned(),
        })
    }
}

impl fmt::Display for StoredEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.stamp, self.expires, self.value)
    }
}
