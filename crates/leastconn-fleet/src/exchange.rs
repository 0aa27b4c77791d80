//! What an exchange carries, independent of the transport. [`InMemory`](crate::InMemory)
//! applies requests to a [`State`](crate::state::State).
//!
//! Times are microseconds of the store's clock.

use std::{sync::Arc, time::Duration};

use crate::{
    keys::ServerKey,
    member::MemberId,
    report::Batch,
    view::{ClientView, SlotView},
};

/// The first bytes of counts and facts. A member sends the versions that it has, so that the
/// store returns only what changed.
pub(crate) type BlobVersion = [u8; 8];

/// Microseconds, as requests carry them.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The steps of an exchange, in the order of their execution.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) member: MemberId,
    /// Random. A process has several sessions one after another, if its settings change.
    pub(crate) session: u64,
    /// Grows with each request of the session, including repeated ones. The store ignores a
    /// request that arrives after a later one.
    pub(crate) sequence: u64,
    pub(crate) operate: Option<Operate>,
    pub(crate) beat: Beat,
    pub(crate) limit: Option<Limit>,
    pub(crate) slots: Option<Slots>,
}

/// Changes to what operators set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operate {
    pub(crate) entries: Vec<EntryChange>,
    /// Signed kills and acknowledgements.
    pub(crate) events: Vec<String>,
}

/// A change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryChange {
    pub(crate) field: String,
    /// `None`: remove the entry that has the digest `replaces`.
    pub(crate) entry: Option<StoredEntry>,
    /// SHA-1 of an entry with an invalid signature, which is replaced whatever its stamp is. Empty:
    /// there is none.
    pub(crate) replaces: String,
}

/// A change that was not made, because the store has a newer entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) field: String,
    pub(crate) text: String,
    /// SHA-1 of the text.
    pub(crate) digest: String,
}

/// One state that operators set, as the store holds it. For each field, the entry with the
/// greatest stamp wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEntry {
    pub(crate) field: String,
    pub(crate) stamp: u64,
    /// When the store may delete the entry.
    pub(crate) expires: u64,
    /// When a member last confirmed that the entry is in force.
    pub(crate) confirmed: u64,
    /// Signature and content.
    pub(crate) value: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) gone_after: u64,
    /// The sequence of the last request of this session that was answered. Zero: none.
    pub(crate) acknowledged: u64,
    /// The time of the last answer. Zero: none.
    pub(crate) answered: u64,
    /// The member does not accept connections any more.
    pub(crate) is_leaving: bool,
    /// Extends the lifetime of the keys.
    pub(crate) extend: bool,
    /// `None`: the store has them.
    pub(crate) counts: Option<Vec<u8>>,
    pub(crate) counts_version: BlobVersion,
    pub(crate) facts: Option<Vec<u8>>,
    /// The version of the operator states that this member has. Empty: none.
    pub(crate) operators_version: String,
    /// The last event that this member has received. Empty: none, and old ones are not wanted.
    pub(crate) last_event: String,
    /// What this member has of the others: versions of counts and facts.
    pub(crate) known: Vec<(MemberId, BlobVersion, BlobVersion)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Limit {
    /// For this long after a loss of data, members get no more than their share of a limit: other
    /// members may not have reported their numbers yet.
    pub(crate) settle: u64,
    /// Serving members before the loss.
    pub(crate) members: u32,
    pub(crate) batch: Arc<Batch>,
}

#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// For this long after a start of the fleet or a loss of data, members get no slots beyond
    /// those that they hold: other members may not have reported theirs yet.
    pub(crate) settle: u64,
    /// The time of the answer with the slots that the member holds. Zero: none.
    pub(crate) answered: u64,
    pub(crate) claims: Vec<SlotClaim>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotClaim {
    pub(crate) server: ServerKey,
    pub(crate) max: u32,
    pub(crate) want: u32,
    pub(crate) open: u32,
    /// Slots that the member holds by the last answer.
    pub(crate) held: u32,
    /// What it may claim instead, if that answer is too old.
    pub(crate) share: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) rejected: Vec<Rejected>,
    pub(crate) beat: BeatAnswer,
    pub(crate) clients: Vec<ClientView>,
    pub(crate) slots: Vec<SlotView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BeatAnswer {
    pub(crate) now: u64,
    /// The sequence of the last request of this session. Zero: none.
    pub(crate) previous: u64,
    /// Whether the store has the counts in the version of the request.
    pub(crate) has_counts: bool,
    pub(crate) has_facts: bool,
    pub(crate) members: Vec<MemberAnswer>,
    /// Version and entries (field and text), if the version is not the one of the request.
    pub(crate) operators: Option<(String, Vec<(String, String)>)>,
    pub(crate) events: Vec<String>,
    /// To be sent with the next request.
    pub(crate) last_event: String,
    /// The store has lost data less than `gone_after` ago: members may be missing.
    pub(crate) settles: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberAnswer {
    pub(crate) id: MemberId,
    pub(crate) heard: u64,
    /// `None`: unchanged.
    pub(crate) counts: Option<Vec<u8>>,
    pub(crate) facts: Option<Vec<u8>>,
}
