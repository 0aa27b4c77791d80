//! The seam between the exchange and what is exchanged.

use std::{fmt, num::NonZeroU32, time::Instant};

use leastconn_fleet::{Report, View};

/// A completed exchange.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    pub report: &'a Report,
    pub view: &'a View,
    /// When the report was sent. The view is not older than this.
    pub sent: Instant,
    /// When the view arrived.
    pub received: Instant,
    /// Serving members, including this one.
    pub members: NonZeroU32,
}

/// A part of the balancer that exchanges numbers or commands with other members.
///
/// All methods are called by one thread at a time and must not block: [`Self::cut_off`] may be
/// called by a connection that finds that the numbers are too old.
pub trait Participant: fmt::Debug + Send + Sync {
    /// Adds the state of this process to `report`.
    fn report(&self, report: &mut Report, now: Instant);

    /// Applies the answer of the store.
    fn apply(&self, exchange: &Exchange<'_>);

    /// The exchange failed: the report may have been applied or not. No connection may wait for its
    /// answer any more.
    fn failed(&self, _report: &Report) {}

    /// No exchange succeeded for too long, or since the start. `members` is the number of serving
    /// members to assume.
    fn cut_off(&self, _members: NonZeroU32) {}

    /// The counts of other members are so old that they are worse than none.
    fn forget_others(&self) {}

    /// This process left the fleet, or the fleet is not configured any more. Nothing of the fleet
    /// may have an effect after this call.
    fn leave(&self) {}
}
