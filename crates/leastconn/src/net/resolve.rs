//! x
#[derive(Debug, Default)]
pub(crate) struct Resolved;
