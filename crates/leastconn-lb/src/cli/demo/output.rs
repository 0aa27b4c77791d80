//! Output of the demo: lines, bars, and a table at the end.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
};

use tokio::sync::Notify;

use super::setup::Environment;

/// Width of the longest bar.
const BAR_WIDTH: usize = 40;

static CLOSED: Notify = Notify::const_new();

/// Completes when the reader of standard output exits, as in `demo | head`, so that the
/// demo can stop and remove its files.
pub(super) async fn closed() {
    CLOSED.notified().await;
}

/// Prints a line. Unlike `println!`, it does not panic if standard output is closed.
pub(super) fn line(text: &str) {
    if writeln!(io::stdout(), "{text}").is_err() {
        CLOSED.notify_one();
    }
}

pub(super) fn heading(text: &str) {
    let (on, off) = if io::stdout().is_terminal() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    line(&format!("\n{on}== {text}{off}"));
}

pub(super) fn say(text: &str) {
    line(&format!("   {text}"));
}

/// Prints the open connections of each server as bars.
pub(super) fn bars(environment: &Environment) {
    let servers = environment.in_flight();
    let max = servers
        .iter()
        .map(|&(_, open, _)| open)
        .max()
        .unwrap_or(0)
        .max(1);
    for (name, open, up) in servers {
        let width = (open as usize * BAR_WIDTH).div_ceil(max as usize);
        let state = if up { "up  " } else { "DOWN" };
        say(&format!(
            "{name} {state} {:<BAR_WIDTH$} {open:>3} open",
            "#".repeat(width)
        ));
    }
}

/// Prints a table of all closed connections by client and outcome.
pub(super) fn summary(environment: &Environment) {
    let mut rows: BTreeMap<(String, String), (usize, BTreeMap<String, usize>)> = BTreeMap::new();
    for line in environment.log() {
        let text = |key: &str| line[key].as_str().unwrap_or("").to_owned();
        let identity = text("identity");
        let client = if identity.is_empty() {
            "(not identified)".to_owned()
        } else {
            identity
        };
        let reason = text("outcome");
        let row = rows.entry((client, reason)).or_default();
        row.0 += 1;
        let server = text("server");
        if !server.is_empty() {
            *row.1.entry(server).or_default() += 1;
        }
    }
    heading("Closed connections, from the access log");
    say(&format!(
        "{:<22} {:<22} {:>5}  by server",
        "client", "outcome", "count"
    ));
    for ((client, reason), (count, servers)) in rows {
        let servers: Vec<_> = servers
            .iter()
            .map(|(name, count)| format!("{name}: {count}"))
            .collect();
        let row = format!(
            "{client:<22} {reason:<22} {count:>5}  {}",
            servers.join(", ")
        );
        say(row.trim_end());
    }
    line("");
}
