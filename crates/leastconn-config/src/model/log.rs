//! `[log]`

use std::path::PathBuf;

use crate::keyword::{AccessFilter, Format, Level};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The lowest level that is logged.
    pub level: Level,
    pub format: Format,
    pub access: Access,
    pub access_filter: AccessFilter,
}

/// The destination of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Stdout,
    Stderr,
    Off,
    /// A file, opened for appending.
    File(PathBuf),
}
