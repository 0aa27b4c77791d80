//! Signed states that operators set: for each server and each blocked client, the latest entry
//! wins.
//!
//! An entry has a stamp: the time of the command by the store's clock, and in any case greater
//! than the stamp of the entry that it replaces. Every member keeps the entries that it knows.
//! If a failover loses a command, or the store restarts empty, the members restore their entries,
//! and the stamps decide. Removing a state (`ready`, `100%`, `unblock`) is an entry too, which is
//! kept for two days, as is a block that has ended, so that a member that was cut off does not
//! restore the old state.
//!
//! An entry also has the time at which a member last confirmed it. Members confirm the entries
//! that they know every hour, and ignore entries that were not confirmed for a day. An attacker
//! with write access to the store can therefore only restore entries that were in force within the
//! last day, and members that have run since then know their successors.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::{
    exchange::{EntryChange, Rejected, StoredEntry, micros},
    operator::{Block, BlockTarget, Command, OperatorState, ServerState, ServerWeight},
    secret::{Secret, hex},
};

const HOUR: u64 = 3600 * 1_000_000;
/// Longer than [`KEEP_CONFIRMED`]: a state that was removed must not be accepted again.
const KEEP_REMOVED: u64 = 48 * HOUR;
/// Entries that were not confirmed for this time are ignored.
const KEEP_CONFIRMED: u64 = 24 * HOUR;
const CONFIRM_AFTER: u64 = HOUR;
/// Confirmations in one request.
const MAX_CONFIRMATIONS: usize = 500;
/// Entries with an invalid signature are removed from the store after this time. If members have
/// different secrets, those with the other secret send theirs again.
const KEEP_INVALID: u64 = 24 * HOUR;
/// Invalid entries that are remembered.
const MAX_INVALID: usize = 1000;

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
    /// Shared with the history, which is updated after each change.
    entries: Arc<SignedEntries>,
    /// Entries of the store with an invalid signature, by field.
    invalid: BTreeMap<String, Invalid>,
    /// The time of the last call of `expire`.
    checked: u64,
    /// The earliest time after `checked` at which `expire` has an effect.
    next_expiry: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Merge {
    /// Entries of the store that were found for the first time and ignored, because their
    /// signature or content is wrong.
    pub(crate) invalid: usize,
    /// Entries that the store has lost or that have to be confirmed, and entries to remove.
    pub(crate) changes: Vec<EntryChange>,
}

/// An entry with an invalid signature.
#[derive(Clone, Debug)]
struct Invalid {
    digest: String,
    /// Zero if the text has none.
    stamp: u64,
    /// When it was found.
    since: u64,
}

/// SHA-1 in hexadecimal, as `redis.sha1hex` returns it. It only identifies a text that the store
/// has sent.
pub(crate) fn sha1(text: &str) -> String {
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

impl OperatorLog {
    pub(crate) fn new(fleet: &str, secret: Secret) -> Self {
        Self {
            fleet: fleet.to_owned(),
            secret,
            entries: Arc::default(),
            invalid: BTreeMap::new(),
            checked: 0,
            next_expiry: 0,
        }
    }

    /// Takes the entries of an earlier session. An entry with another signature is signed again,
    /// with a greater stamp, so that it replaces the old one in the store.
    pub(crate) fn resume(&mut self, earlier: Arc<SignedEntries>) {
        let resumed = Arc::unwrap_or_clone(earlier).into_iter();
        let resumed = resumed.filter_map(|(field, (entry, content))| {
            let resumed = match self.verified(entry.clone()) {
                Some((entry, _)) => Some(entry),
                None => {
                    let stamp = entry.stamp.saturating_add(1);
                    self.sign(field.clone(), stamp, entry.confirmed, &content)
                }
            };
            Some((field, (resumed?, content)))
        });
        self.entries = Arc::new(resumed.collect());
    }

    pub(crate) const fn entries(&self) -> &Arc<SignedEntries> {
        &self.entries
    }

    /// The signed entry of a command. `None`: the command is not a state.
    pub(crate) fn change(&self, now: u64, command: &Command) -> Option<EntryChange> {
        let content = Content::new(now, command)?;
        let field = content.field();
        let known = self.entries.get(&field);
        let stamp = known.map_or(now, |(known, _)| now.max(known.stamp.saturating_add(1)));
        let replaces = self.invalid.get(&field).map(|found| found.digest.clone());
        Some(EntryChange {
            entry: Some(self.sign(field.clone(), stamp, now, &content)?),
            field,
            replaces: replaces.unwrap_or_default(),
        })
    }

    fn sign(
        &self,
        field: String,
        stamp: u64,
        confirmed: u64,
        content: &Content,
    ) -> Option<StoredEntry> {
        let expires = content.expires(stamp, confirmed);
        let json = serde_json::to_string(content).ok()?;
        let times = [stamp.to_string(), confirmed.to_string()];
        let signature = self.secret.sign(&self.signed(&field, &times, &json));
        Some(StoredEntry {
            field,
            stamp,
            expires,
            confirmed,
            value: format!("{signature} {json}"),
        })
    }

    /// Takes the entries of the store.
    pub(crate) fn merge(&mut self, now: u64, stored: &[(String, String)]) -> Merge {
        let mut merge = Merge::default();
        let mut found = BTreeMap::new();
        let mut invalid = BTreeMap::new();
        for (field, text) in stored {
            let parsed = StoredEntry::parse(field, text);
            if parsed.as_ref().is_some_and(|entry| entry.expires <= now) {
                merge.changes.push(EntryChange::remove(field, sha1(text)));
                continue;
            }
            if let Some(entry) = &parsed
                && let Some((known, _)) = self.entries.get(field)
                && known == entry
            {
                // Verified before.
                found.insert(field.clone(), (entry.stamp, entry.confirmed));
                continue;
            }
            let stamp = parsed.as_ref().map_or(0, |entry| entry.stamp);
            match parsed.and_then(|entry| self.verified(entry)) {
                Some((entry, content)) => {
                    found.insert(field.clone(), (entry.stamp, entry.confirmed));
                    self.insert(entry, content);
                }
                None => {
                    let (found, is_new) = self.found_invalid(now, field, stamp, sha1(text));
                    merge.invalid += usize::from(is_new);
                    if found.since.saturating_add(KEEP_INVALID) <= now {
                        let digest = found.digest.clone();
                        merge.changes.push(EntryChange::remove(field, digest));
                    }
                    if invalid.len() < MAX_INVALID {
                        invalid.insert(field.clone(), found);
                    }
                }
            }
        }
        self.invalid = invalid;
        self.expire(now);
        self.restore(now, &found, &mut merge.changes);
        merge
    }

    /// Keeps an entry, unless a newer one is known.
    fn insert(&mut self, entry: StoredEntry, content: Content) -> bool {
        let known = self.entries.get(&entry.field);
        let is_newer = known.is_none_or(|(known, _)| known.order() < entry.order());
        if is_newer {
            let expiry = content.next_expiry(entry.stamp, self.checked);
            self.next_expiry = self.next_expiry.min(expiry);
            let entries = Arc::make_mut(&mut self.entries);
            entries.insert(entry.field.clone(), (entry, content));
        }
        is_newer
    }

    /// The second value: whether the entry was not found before.
    fn found_invalid(&self, now: u64, field: &str, stamp: u64, digest: String) -> (Invalid, bool) {
        let before = self.invalid.get(field);
        match before.filter(|before| before.digest == digest) {
            Some(before) => (before.clone(), false),
            None => {
                let found = Invalid {
                    digest,
                    stamp,
                    since: now,
                };
                (found, true)
            }
        }
    }

    /// Adds the entries that the store has lost, and those that were last confirmed an hour ago.
    /// `found`: stamps and confirmations in the store.
    fn restore(
        &self,
        now: u64,
        found: &BTreeMap<String, (u64, u64)>,
        changes: &mut Vec<EntryChange>,
    ) {
        let mut confirmations = 0;
        for (field, (entry, content)) in &*self.entries {
            if let Some((stamp, confirmed)) = found.get(field)
                && *stamp >= entry.stamp
            {
                let is_due = !content.is_removal()
                    && confirmed.saturating_add(CONFIRM_AFTER) <= now
                    && confirmations < MAX_CONFIRMATIONS;
                if !is_due {
                    continue;
                }
                confirmations += 1;
            }
            // The invalid entry may be of a member with another secret. Only if its stamp cannot
            // be reached, it must be replaced.
            let replaces = self.invalid.get(field).filter(|found| found.stamp > now);
            let replaces = replaces.map(|found| found.digest.clone());
            if let Some(entry) = self.sign(field.clone(), entry.stamp, now, content) {
                changes.push(EntryChange {
                    field: field.clone(),
                    entry: Some(entry),
                    replaces: replaces.unwrap_or_default(),
                });
            }
        }
    }

    /// Takes the entry because of which a change was rejected. Returns whether it is new.
    pub(crate) fn learn(&mut self, now: u64, rejected: &Rejected) -> bool {
        let Rejected {
            field,
            text,
            digest,
        } = rejected;
        let parsed = StoredEntry::parse(field, text);
        let stamp = parsed.as_ref().map_or(0, |entry| entry.stamp);
        let current = parsed.filter(|entry| entry.expires > now);
        match current.and_then(|entry| self.verified(entry)) {
            Some((entry, content)) => self.insert(entry, content),
            None => {
                let (found, _) = self.found_invalid(now, field, stamp, digest.clone());
                self.invalid.insert(field.clone(), found);
                false
            }
        }
    }

    /// Removes expired entries. Returns whether any was removed, or a block has ended.
    pub(crate) fn expire(&mut self, now: u64) -> bool {
        let checked = std::mem::replace(&mut self.checked, now);
        // An earlier time is unusual: the clock of the store was set, or the store is another one.
        if (checked..self.next_expiry).contains(&now) {
            return false;
        }
        let mut has_ended = false;
        let mut expired = false;
        self.next_expiry = u64::MAX;
        for (entry, content) in self.entries.values() {
            has_ended |= content.has_ended(now) != content.has_ended(checked);
            expired |= !content.is_kept(entry.stamp, now);
            let expiry = content.next_expiry(entry.stamp, now);
            self.next_expiry = self.next_expiry.min(expiry);
        }
        if expired {
            Arc::make_mut(&mut self.entries)
                .retain(|_, (entry, content)| content.is_kept(entry.stamp, now));
        }
        has_ended || expired
    }

    /// Forgets all entries: those of the store are newer.
    pub(crate) fn clear(&mut self) {
        self.entries = Arc::default();
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

    fn verified(&self, entry: StoredEntry) -> Option<(StoredEntry, Content)> {
        let (signature, json) = entry.value.split_once(' ')?;
        let times = [entry.stamp.to_string(), entry.confirmed.to_string()];
        let signed = self.signed(&entry.field, &times, json);
        if !self.secret.verify(&signed, signature) {
            return None;
        }
        let content = Content::parse(&entry)?;
        Some((entry, content))
    }

    fn signed<'a>(
        &'a self,
        field: &'a str,
        [stamp, confirmed]: &'a [String; 2],
        json: &'a str,
    ) -> [&'a str; 6] {
        [&self.fleet, "operator", field, stamp, confirmed, json]
    }
}

impl EntryChange {
    fn remove(field: &str, digest: String) -> Self {
        Self {
            field: field.to_owned(),
            entry: None,
            replaces: digest,
        }
    }
}

impl Content {
    /// The content of an entry, if it agrees with the other parts of the entry. The signature is
    /// not verified.
    pub(crate) fn parse(entry: &StoredEntry) -> Option<Self> {
        let (_, json) = entry.value.split_once(' ')?;
        let content: Self = serde_json::from_str(json).ok()?;
        let expires = content.expires(entry.stamp, entry.confirmed);
        let agrees = content.field() == entry.field && expires == entry.expires;
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

    /// Whether this removes a state.
    fn is_removal(&self) -> bool {
        match self {
            Self::State { state, .. } => state == "ready",
            Self::Weight { weight, .. } => weight == "100%",
            Self::Block { .. } => false,
            Self::Unblock { .. } => true,
        }
    }

    /// When a member forgets the entry. `None`: never.
    fn forgotten(&self, stamp: u64) -> Option<u64> {
        let end = match self {
            // The ended block is kept, as the removal of a state is.
            Self::Block { until, .. } => until.map(|until| until.max(stamp)),
            _ => self.is_removal().then_some(stamp),
        };
        end.map(|end| end.saturating_add(KEEP_REMOVED))
    }

    /// When the block ends or a member forgets the entry, whichever is the next after `now`.
    fn next_expiry(&self, stamp: u64, now: u64) -> u64 {
        let end = match self {
            Self::Block { until, .. } => *until,
            _ => None,
        };
        let times = [end, self.forgotten(stamp)].into_iter().flatten();
        times.filter(|time| *time > now).min().unwrap_or(u64::MAX)
    }

    fn is_kept(&self, stamp: u64, now: u64) -> bool {
        self.forgotten(stamp).is_none_or(|time| time > now)
    }

    /// When the entry is ignored, and the store may delete it.
    fn expires(&self, stamp: u64, confirmed: u64) -> u64 {
        let unconfirmed = match self.is_removal() {
            true => u64::MAX,
            false => confirmed.saturating_add(KEEP_CONFIRMED),
        };
        self.forgotten(stamp).unwrap_or(u64::MAX).min(unconfirmed)
    }
}

impl StoredEntry {
    /// Of two entries of a field, the one with the greater order wins.
    pub(crate) const fn order(&self) -> (u64, u64) {
        (self.stamp, self.confirmed)
    }

    /// The inverse of `Display`.
    pub(crate) fn parse(field: &str, text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Some(Self {
            field: field.to_owned(),
            stamp: parts.next()?.parse().ok()?,
            expires: parts.next()?.parse().ok()?,
            confirmed: parts.next()?.parse().ok()?,
            value: parts.next()?.to_owned(),
        })
    }
}

impl fmt::Display for StoredEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stamp,
            expires,
            confirmed,
            value,
            ..
        } = self;
        write!(f, "{stamp} {expires} {confirmed} {value}")
    }
}

#[cfg(test)]
mod tests;
