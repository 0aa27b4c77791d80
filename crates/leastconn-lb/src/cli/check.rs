//! `check`: reads and resolves everything that `run` would, and prints the problems.
//! It does not start the balancer.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use leastconn::UpstreamId;
use leastconn_config::{Config, Problems, Severity};
use leastconn_server::upstream::{SourceStatus, look_up_sources};
use tokio::task::JoinSet;

use super::{INVALID, fail};
use crate::figures::count;

/// Time limit for looking up discovered servers.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of discovered servers that are listed per source.
const SHOWN_SERVERS: usize = 10;

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
    let sources = look_up(reading.config.as_ref());
    for (upstream, source) in &sources {
        let used = reading.sources.iter();
        let mut used = used.filter(|used| used.upstream == *upstream && used.kind == source.kind);
        if let (Some(used), Some(error)) = (used.next(), &source.error) {
            leastconn_config::reachable::report_source(
                used,
                !source.servers.is_empty(),
                error,
                &mut reading.problems,
            );
        }
    }
    let problems = &reading.problems;
    let ok = problems.errors() == 0;
    let summary = match &reading.config {
        Some(config) if ok => success(config, problems) + &discovered(&sources),
        _ => format!("{}: {}", problems.name(), problems.summary()),
    };
    (problems.render(colours), summary, ok)
}

/// Queries the discovery sources of all upstreams concurrently.
fn look_up(config: Option<&Config>) -> Vec<(UpstreamId, SourceStatus)> {
    let upstreams = config.map_or(&[][..], |config| &config.upstreams);
    let with_sources = upstreams.iter().filter(|one| !one.sources.is_empty());
    let upstreams: Vec<_> = with_sources.cloned().collect();
    if upstreams.is_empty() {
        return Vec::new();
    }
    let look_up = async {
        let mut running = JoinSet::new();
        for upstream in upstreams {
            running.spawn(async move {
                let sources = look_up_sources(&upstream, LOOKUP_TIMEOUT).await;
                (upstream.id, sources)
            });
        }
        running.join_all().await
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    // If the runtime cannot be created, for example for lack of file descriptors, omit the list.
    let found = runtime.map(|runtime| runtime.block_on(look_up));
    let found = found.unwrap_or_default().into_iter();
    let mut found: Vec<_> = found
        .flat_map(|(id, sources)| sources.into_iter().map(move |source| (id.clone(), source)))
        .collect();
    found.sort_by(|(a, one), (b, other)| (a, &one.kind).cmp(&(b, &other.kind)));
    found
}

/// Returns one line for each discovery source that has found servers.
fn discovered(sources: &[(UpstreamId, SourceStatus)]) -> String {
    let answered = sources.iter().filter(|(_, source)| source.is_answered);
    let lines = answered.map(|(upstream, source)| {
        let shown = source.servers.iter().take(SHOWN_SERVERS);
        let mut names: Vec<_> = shown.map(ToString::to_string).collect();
        let more = source.servers.len() - names.len();
        if more > 0 {
            names.push(format!("{more} more"));
        }
        let servers = count(source.servers.len(), "server");
        format!(
            "\nupstream {upstream}: {}: {servers}: {}",
            source.kind,
            names.join(", ")
        )
    });
    lines.collect()
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
    if let Some(fleet) = &config.fleet {
        out.push_str(&format!(
            ", member {} of fleet {}",
            fleet.member, fleet.name
        ));
    }
    if !problems.is_empty() {
        out.push_str(&format!(" ({})", problems.summary()));
    }
    out
}

#[cfg(test)]
mod tests;
