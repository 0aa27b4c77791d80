//! What a connection adds to the state word.

use std::num::NonZeroU32;

use super::{CONNECTING_SHIFT, MAX_IN_FLIGHT};

/// How a connection is counted on its server: the value that it adds to the state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counting(u64);

impl Counting {
    pub(crate) const CONNECTION: Self = Self(1);
    /// Counts as a connection and as a dial in progress.
    pub(crate) const DIAL: Self = Self(1 | 1 << CONNECTING_SHIFT);

    /// Returns the value to add to the state word.
    pub(super) const fn word(self) -> u64 {
        self.0
    }
}

/// The maximum number of dials in progress to one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DialLimit {
    /// The smallest word at the limit. One comparison is enough, because dials are counted in the
    /// highest bits of the word.
    first_word: u64,
}

impl DialLimit {
    pub(crate) const NONE: Self = Self {
        first_word: u64::MAX,
    };

    pub(crate) fn new(max: NonZeroU32) -> Self {
        let first_word = u64::from(max.get().min(MAX_IN_FLIGHT)) << CONNECTING_SHIFT;
        Self { first_word }
    }

    pub(crate) const fn is_reached(self, word: u64) -> bool {
        word >= self.first_word
    }
}
