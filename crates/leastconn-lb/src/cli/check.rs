//! `leastconn-lb check`: everything that `run` would read and resolve, and what
//! is wrong with it. Starts nothing.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{INVALID, fail};
use leastconn_server::config::{self, Config, Problems, Severity};

/// Checks the file given, or the one that `run` would take, and prints every
/// problem on standard error. Ends with 2 if any is an error, else with 0.
pub fn run(path: Option<PathBuf>) -> ExitCode {
    let path = match config::find(path) {
        Ok(path) => path,
        Err(error) => return fail(&error, INVALID),
    };
    let (report, summary, ok) = check(&path, config::stderr_has_colours());
    // A closed pipe changes nothing about the verdict.
    let _ = io::stderr().lock().write_all(report.as_bytes());
    let _ = writeln!(io::stdout().lock(), "{summary}");
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INVALID)
    }
}

/// The problems as they are printed, a line to sum them up, and the verdict.
pub fn check(path: &Path, colours: bool) -> (String, String, bool) {
    let mut reading = config::read(path);
    // A name may resolve where the balancer will run and not here, and `run` would
    // start and go on asking: no error.
    config::reachable::check(&reading.addresses, Severity::Warning, &mut reading.problems);
    let problems = &reading.problems;
    let ok = problems.errors() == 0;
    let summary = match &reading.config {
        Some(config) if ok => good(config, problems),
        _ => format!("{}: {}", problems.name(), problems.summary()),
    };
    (problems.render(colours), summary, ok)
}

fn good(config: &Config, problems: &Problems) -> String {
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
