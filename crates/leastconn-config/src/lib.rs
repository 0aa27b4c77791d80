//! Reading the configuration.
//!
//! A file goes through these stages, and each reports every problem it sees, so
//! that one run of `check` shows them all:
//!
//! 1. `toml` parses it, with places kept.
//! 2. `expand` puts environment variables into string values.
//! 3. `shape` compares it with the JSON schema of [`raw`]: keys, types, fixed
//!    words. What is wrong is reported and cut out, so that the rest goes on.
//! 4. `resolve` reads the files it names, and checks what the parts mean
//!    together.
//!
//! Only a file without any error yields a [`Config`]. Nothing ever falls back
//! to a default because what was written could not be read.

mod admin_at;
pub mod cidr;
pub mod clients;
pub mod confinement;
mod defaults;
pub mod duration;
mod expand;
pub mod files;
mod keyword;
mod model;
mod problem;
pub mod raw;
pub mod reachable;
mod resolve;
mod schema;
mod scratch;
mod shape;
mod size;
pub mod suggest;
pub mod text;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use jiff::Timestamp;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

pub use admin_at::{AdminAt, admin_at};
pub use cidr::{IpNet, Prefixes};
pub use clients::{Allow, Client, Clients, Granted, MatchKey, Rule};
pub use keyword::{
    AccessFilter, Format, Level, Mode, OnExpiry, OnTruncation, Sandbox, StartTls, Watch,
};
pub use leastconn_tls::pattern::{CnPattern, DnsPattern, ExactText, Spki, UriPattern};
pub use model::{
    Access, Admin, Config, HealthCheck, Listener, Log, MemoryLimit, ProbeKind, Process, Route,
    Senders, SourceRateLimit, StatusSet, Timeouts, Token, Upstream,
};
pub use problem::{Problem, Problems, Severity, stderr_has_colours};
pub use schema::schema;
pub use tls::read_certificates;
pub use tls::{CertificateFile, Dated, FileKind, Tls, TlsTable, UpstreamTls, Urgency};

use resolve::{AddressUse, Surroundings};
use scratch::Scratch;
pub use text::visible;

/// A file with the configuration of a thousand clients has some 200 KB.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A configuration, and what is odd about it.
#[derive(Debug)]
pub struct Loaded {
    /// What is to be run.
    pub config: Config,
    /// Nothing but warnings.
    pub warnings: Problems,
    addresses: Vec<AddressUse>,
}

impl Loaded {
    /// Adds a warning for each server whose host name cannot be resolved now.
    /// Blocks for up to three seconds.
    pub fn warn_of_unresolved_names(&mut self) {
        reachable::check(&self.addresses, Severity::Warning, &mut self.warnings);
    }
}

/// What came of reading a file, good or bad.
pub struct Reading {
    /// Only if no problem is an error.
    pub config: Option<Config>,
    pub problems: Problems,
    pub addresses: Vec<AddressUse>,
}

impl Reading {
    fn failed(problems: Problems) -> Self {
        Self {
            config: None,
            problems,
            addresses: Vec::new(),
        }
    }

    fn loaded(self) -> Result<Loaded, Problems> {
        match self.config {
            Some(config) => Ok(Loaded {
                config,
                warnings: self.problems,
                addresses: self.addresses,
            }),
            None => Err(self.problems),
        }
    }
}

/// Reads the file at `path` and everything it names. Host names are not looked
/// up: they may come and go while the program runs.
///
/// # Errors
/// All problems at once, with warnings among them, when any is an error.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    read(path).loaded()
}

/// The same, but revocation lists and authorities that have expired are warnings:
/// `explain` is asked most when they have.
///
/// # Errors
/// As [`load`].
pub fn load_with_expired(path: &Path) -> Result<Loaded, Problems> {
    read_with(path, &mut Problems::tolerate_expired).loaded()
}

/// Reads the file of a `running` configuration again: an expired revocation list is an
/// error only where it would replace one that is current.
///
/// # Errors
/// As [`load`].
pub fn load_again(running: &Config) -> Result<Loaded, Problems> {
    read_with(&running.path, &mut |problems| {
        problems.set_running_lists(running.revocation_lists());
    })
    .loaded()
}

/// The same for a text at hand: `name` is what problems call it, and relative
/// paths in it are relative to `base_dir`.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str, base_dir: &Path) -> Result<Loaded, Problems> {
    read_text(
        Problems::new(name, text),
        text,
        base_dir,
        &|name| std::env::var(name),
        Timestamp::now(),
    )
    .loaded()
}

pub fn read(path: &Path) -> Reading {
    read_with(path, &mut |_| {})
}

fn read_with(path: &Path, prepare: &mut dyn FnMut(&mut Problems)) -> Reading {
    let name = path.display().to_string();
    let text = match read_file(path) {
        Ok(text) => text,
        Err(error) => {
            let mut problems = Problems::new(&name, "");
            let problem = problems.error(format!("the file cannot be read: {error}"));
            if let Some(hint) = confinement::hint_for_reading(path, &error) {
                problem.help(hint);
            }
            return Reading::failed(problems);
        }
    };
    let base_dir = path.parent().unwrap_or(Path::new(""));
    match String::from_utf8(text) {
        Ok(text) => {
            let mut problems = Problems::new(&name, &text);
            prepare(&mut problems);
            read_text(
                problems,
                &text,
                base_dir,
                &|name| std::env::var(name),
                Timestamp::now(),
            )
        }
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let mut problems = Problems::new(&name, &text);
            // Up to there nothing was replaced, so that the place holds.
            problems
                .error("the file is not UTF-8 text")
                .at(at..at + char::REPLACEMENT_CHARACTER.len_utf8());
            Reading::failed(problems)
        }
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    files::read(path, LARGEST).map(|contents| contents.bytes)
}

fn read_text(
    mut problems: Problems,
    text: &str,
    base_dir: &Path,
    environment: expand::Environment<'_>,
    now: Timestamp,
) -> Reading {
    // It lives as long as the process: keep it out of the scratch heap.
    LazyLock::force(&schema::SCHEMA);
    let parsed = Scratch::build(|| parse(text, environment, &mut problems));
    let Some(Some((raw, pruned))) = &*parsed else {
        problems.sort();
        return Reading::failed(problems);
    };
    let surroundings = Surroundings {
        base_dir,
        now,
        pruned,
    };
    let path = PathBuf::from(problems.name());
    let (config, addresses) = resolve::resolve(raw, path, &surroundings, &mut problems);
    drop(parsed);
    problems.sort();
    Reading {
        config: (problems.errors() == 0).then_some(config),
        problems,
        addresses,
    }
}

/// The file as it is written, and what of it was found wrong already; `None` if
/// that is all that can be said.
fn parse(
    text: &str,
    environment: expand::Environment<'_>,
    problems: &mut Problems,
) -> Option<(raw::Raw, HashSet<usize>)> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What follows from a broken line would only hide it.
        problems.syntax(&errors);
        return None;
    }
    let span = document.span();
    let mut document = DeValue::Table(document.into_inner());
    let failed = expand::expand(&mut document, &span, environment, problems);
    let DeValue::Table(mut document) = document else {
        return None;
    };
    let pruned = shape::check(&mut document, &failed, problems);
    let spanned = toml::Spanned::new(span, DeValue::Table(document));
    match raw::Raw::deserialize(toml::de::ValueDeserializer::from(spanned)) {
        Ok(raw) => Some((raw, pruned)),
        Err(error) => {
            // The schema lets something through that the types do not take.
            problems.syntax(&[error]);
            None
        }
    }
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
