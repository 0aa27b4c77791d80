//! `[log]`

use std::path::PathBuf;

use crate::keyword::{AccessFilter, Format, Level};

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important messages that are written.
    pub level: Level,
    /// The form of messages.
    pub format: Format,
    /// Where the access log goes.
    pub access: Access,
    /// Whose lines are in it.
    pub access_filter: AccessFilter,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// To standard output.
    Stdout,
    /// To standard error.
    Stderr,
    /// Nowhere.
    Off,
    /// To this file, which is appended to.
    File(PathBuf),
}
