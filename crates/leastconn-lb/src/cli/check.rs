//! `check`: reads and resolves everything that `run` would, and prints the problems.
//! It does not start the balancer.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{INVALID, fail};
use leastconn_config::{Config, Problems, Severity};

/// Checks `path`, or the file that `run` would use, and prints every problem on standard
/// error. Exits with 2 if there is an error, otherwise with 0.
pub fn run(path: Option<PathBuf>) -> ExitCode {
    let path = match leastconn_config::find(path) {
        Ok(path) => path,
        Err(error) => return fail(&error, INVALID),
    };
    let (report, summary, ok) = check(&path, leastconn_config::stderr_has_colours());
    // A closed pipe does not change the exit code.
    let _ = io::stderr().lock().write_all(report.as_bytes());
    let _ = writeln!(io::stdout().lock(), "{summary}");
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INVALID)
    }
}

/// Returns the rendered problems, a one-line summary, and whether the file has no errors.
pub fn check(path: &Path, colours: bool) -> (String, String, bool) {
    let mut reading = leastconn_config::read(path);
    // An unresolvable name is only a warning: it may resolve on the host where the balancer
    // will run, and `run` starts without it and keeps resolving.
    leastconn_config::reachable::check(
        &reading.addresses,
        Severity::Warning,
        &mut reading.problems,
    );
    let problems = &reading.problems;
    let ok = problems.errors() == 0;
    let summary = match &reading.config {
        Some(config) if ok => success(config, problems),
        _ => format!("{}: {}", problems.name(), problems.summary()),
    };
    (problems.render(colours), summary, ok)
}

fn success(config: &Config, problems: &Problems) -> String {
    let servers = config
        .upstreams
        .iter()
        .map(|upstream| upstream.servers.len())
        .sum();
    let mut out = format!(
        "{}: ok - {}, {} with {}, {}",
        problems.name(),
        count(config.listeners.len(), "listener"),
        count(config.upstreams.len(), "upstream"),
        count(servers, "server"),
        count(config.clients.len(), "client"),
    );
    if !problems.is_empty() {
        out.push_str(&format!(" ({})", problems.summary()));
    }
    out
}

fn count(count: usize, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

#[cfg(test)]
mod tests;
