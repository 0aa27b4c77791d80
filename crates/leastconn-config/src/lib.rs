//! The configuration of `leastconn-lb`: from a TOML file to a checked [`Config`].
//!
//! A file passes through the following stages. Each stage reports all problems that it finds,
//! so that one run of `check` shows them together:
//!
//! 1. `toml` parses the file and keeps the position of each value.
//! 2. `expand` replaces environment variables in strings.
//! 3. `shape` compares the file with the JSON schema of [`raw`]: keys, types and fixed
//!    words. Invalid values are reported and removed, so that checking can continue.
//! 4. `resolve` converts values, loads the files that the configuration names, and checks
//!    how the tables fit together.
//!
//! A [`Config`] is returned only if the file has no errors. An invalid value is never
//! replaced by a default.

mod admin_address;
pub mod cidr;
pub mod clients;
pub mod confinement;
mod defaults;
#[cfg(any(test, fuzzing))]
mod drive;
pub mod duration;
mod expand;
pub mod files;
mod keyword;
mod model;
pub mod names;
mod problem;
pub mod raw;
pub mod reachable;
mod resolve;
mod schema;
mod scratch;
mod shape;
mod size;
pub mod suggest;
mod surroundings;
pub mod text;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use jiff::Timestamp;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

pub use admin_address::{AdminAddress, admin_address};
pub use cidr::{IpNet, Prefixes};
pub use clients::{Allow, Client, Clients, Granted, MatchKey, Pattern, Rule};
pub use keyword::{
    AccessFilter, AddressFamily, Format, Level, Mode, OnExpiry, OnRemoval, OnTruncation, Sandbox,
    SharedCounts, SharedLimits, StartMode, StartTls, Watch,
};
pub use leastconn_tls::pattern::{CnPattern, DnsPattern, ExactText, Spki, UriPattern};
pub use model::{
    Access, Admin, AgentCheck, Config, Discovery, Fleet, FleetStore, HealthCheck, Listener, Log,
    MemoryLimit, ProbeKind, Process, Rebalance, Route, Secret, ServerSource, SourceKind,
    SourceRateLimit, StatusSet, Target, Timeouts, Token, TrustedProxies, Upstream,
};
pub use problem::{Problem, Problems, Severity, stderr_has_colours};
pub use schema::schema;
pub use tls::read_certificates;
pub use tls::{CertificateFile, Dated, FileKind, Tls, TlsTable, UpstreamTls, Urgency};

pub use resolve::SourceUse;
use resolve::{AddressUse, Uses};
use scratch::Scratch;
use surroundings::Surroundings;
pub use text::visible;

/// Maximum size of a configuration file in bytes. A file with 1,000 clients is about 200 KB in
/// size.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A configuration and its warnings.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Contains only warnings, no errors.
    pub warnings: Problems,
    addresses: Vec<AddressUse>,
}

impl Loaded {
    /// Adds a warning for each server whose host name cannot be resolved at present. Blocks
    /// for up to three seconds.
    pub fn warn_of_unresolved_names(&mut self) {
        reachable::check(&self.addresses, Severity::Warning, &mut self.warnings);
    }
}

/// The result of reading a file, with or without errors.
pub struct Reading {
    /// The configuration. `None` if any problem is an error.
    pub config: Option<Config>,
    pub problems: Problems,
    pub addresses: Vec<AddressUse>,
    pub sources: Vec<SourceUse>,
}

impl Reading {
    fn failed(problems: Problems) -> Self {
        Self {
            config: None,
            problems,
            addresses: Vec::new(),
            sources: Vec::new(),
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

/// Entry point of the fuzz target `configuration`.
#[cfg(fuzzing)]
pub fn fuzz_configuration(text: &str) {
    drive::configuration(text);
}

/// Entry point of the fuzz target `pem`.
#[cfg(fuzzing)]
pub fn fuzz_pem(wanted: u8, bytes: &[u8]) {
    tls::drive::pem(wanted, bytes);
}

/// Loads the file at `path` and the files that it names. Host names are not resolved,
/// because their addresses may change while the program runs.
///
/// # Errors
/// Returns all problems, including warnings, if any is an error.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    read(path).loaded()
}

/// Like [`load`], but expired CRLs and CAs are warnings. The command `explain` needs this,
/// because it explains refusals that expired CRLs and CAs cause.
///
/// # Errors
/// As [`load`].
pub fn load_with_expired(path: &Path) -> Result<Loaded, Problems> {
    read_with(path, &mut Problems::tolerate_expired).loaded()
}

/// Loads the file of the `running` configuration again. An expired CRL is an error only if
/// it would replace a CRL that has not expired.
///
/// # Errors
/// As [`load`].
pub fn load_again(running: &Config) -> Result<Loaded, Problems> {
    read_with(&running.path, &mut |problems| {
        problems.set_running_lists(running.revocation_lists());
    })
    .loaded()
}

/// Like [`load`], from a string. `name` is the file name in problems, and `base_dir` the
/// base directory of relative paths.
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
            let problem = problems.error(format!("`{name}` cannot be read: {error}"));
            match error.kind() {
                ErrorKind::NotFound => {
                    problem.help(
                        "create it with `leastconn-lb init`, or name another file with --config",
                    );
                }
                ErrorKind::InvalidInput => {
                    problem.help("name the configuration file itself with --config");
                }
                _ => {}
            }
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
            // No text before `at` was replaced, so the position is correct.
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
    // Create the schema outside the scratch heap, because the schema is never freed.
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
    let (config, Uses { addresses, sources }) =
        resolve::resolve(raw, path, digest(text), &surroundings, &mut problems);
    drop(parsed);
    problems.sort();
    Reading {
        config: (problems.errors() == 0).then_some(config),
        problems,
        addresses,
        sources,
    }
}

/// See [`Config::digest`].
fn digest(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let bytes = hash.as_ref().iter().take(8);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Parses and validates the file. Returns its content, and the positions of tables and
/// lists from which invalid parts were removed. `None`: the file cannot be checked further.
fn parse(
    text: &str,
    environment: expand::Environment<'_>,
    problems: &mut Problems,
) -> Option<(raw::Raw, HashSet<usize>)> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // Do not report further problems, because they would only be consequences of the
        // syntax error.
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
            // This error occurs only if the schema accepts a value that the Rust types do not
            // accept.
            problems.syntax(&[error]);
            None
        }
    }
}

/// The configuration file: `given`, else `leastconn.toml` in the working directory, else
/// `/etc/leastconn/leastconn.toml`.
///
/// # Errors
/// If `given` is `None` and neither of the two default files exists.
pub fn find(given: Option<PathBuf>) -> Result<PathBuf, NotFound> {
    const PATHS: [&str; 2] = ["leastconn.toml", "/etc/leastconn/leastconn.toml"];
    if let Some(path) = given {
        return Ok(path);
    }
    PATHS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .ok_or(NotFound)
}

/// No configuration file was given or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no configuration file: neither `leastconn.toml` in the working directory nor \
     `/etc/leastconn/leastconn.toml` exists; name one with --config FILE"
)]
pub struct NotFound;
