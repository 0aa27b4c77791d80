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
    pub(crate) limit: Option<Arc<Batch>>,
    pub(crate) slots: Option<Slots>,
}

/// Changes to what operators set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operate {
    pub(crate) entries: Vec<StoredEntry>,
    /// Signed kills and acknowledgements.
    pub(crate) events: Vec<String>,
}

/// One state that operators set, as the store holds it. For each field, the entry with the
/// greatest stamp wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEntry {
    pub(crate) field: String,
    pub(crate) stamp: u64,
    /// When the store may delete the entry. Zero: never.
    pub(crate) expires: u64,
    /// Signature and content.
    pub(crate) value: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) gone_after: u64,
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
pub(crate) struct Slots {
    /// For this long after a start of the fleet or the store, members get no slots beyond those
    /// that they hold: other members may not have reported theirs yet.
    pub(crate) settle: u64,
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
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Fields that have an entry with a greater stamp.
    pub(crate) rejected: Vec<String>,
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
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberAnswer {
    pub(crate) id: MemberId,
    pub(crate) heard: u64,
    /// `None`: unchanged.
    pub(crate) counts: Option<Vec<u8>>,
    pub(crate) facts: Option<Vec<u8>>,
}
