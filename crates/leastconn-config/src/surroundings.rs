//! Inputs to resolving a configuration, apart from the file itself.

use std::{collections::HashSet, ops::Range, path::Path};

use jiff::Timestamp;

/// Inputs other than the file itself.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Base directory of relative paths.
    pub(crate) base_dir: &'a Path,
    /// The current time, which decides whether certificates and rules have expired.
    pub(crate) now: Timestamp,
    /// Start positions of the tables and lists from which the schema check removed invalid
    /// parts.
    pub(crate) pruned: &'a HashSet<usize>,
}

impl Surroundings<'_> {
    /// Whether the schema check removed an invalid part from the table or list at `span`. The
    /// part was reported, so its absence must not be reported as well.
    pub(crate) fn is_pruned(&self, span: &Range<usize>) -> bool {
        self.pruned.contains(&span.start)
    }
}
