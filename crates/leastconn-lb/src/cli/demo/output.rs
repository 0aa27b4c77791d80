//! How the demo shows what goes on: plain lines, bars, a table at the end.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
};

use tokio::sync::Notify;

use super::setup::Stage;

/// Widest bar.
const WIDTH: usize = 40;

static READER_GONE: Notify = Notify::const_new();

/// Completes once nobody reads what is printed any more: `demo | head`. The demo
/// then ends as if told to, and takes its files with it.
pub(super) async fn reader_gone() {
    READER_GONE.notified().await;
}

/// Prints a line. Not `println!`, which panics when the reader has gone.
pub(super) fn line(text: &str) {
    if writeln!(io::stdout(), "{text}").is_err() {
        READER_GONE.notify_one();
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

/// A bar for each server's open connections.
pub(super) fn bars(stage: &Stage) {
    let servers = stage.in_flight();
    let most = servers
        .iter()
        .map(|&(_, open, _)| open)
        .max()
        .unwrap_or(0)
        .max(1);
    for (name, open, up) in servers {
        let width = (open as usize * WIDTH).div_ceil(most as usize);
        let state = if up { "up  " } else { "DOWN" };
        say(&format!(
            "{name} {state} {:<WIDTH$} {open:>3} open",
            "#".repeat(width)
        ));
    }
}

/// Connections and refusals over the whole demo, by client.
pub(super) fn summary(stage: &Stage) {
    let mut rows: BTreeMap<(String, String), (usize, BTreeMap<String, usize>)> = BTreeMap::new();
    for line in stage.log() {
        let text = |key: &str| line[key].as_str().unwrap_or("").to_owned();
        let identity = text("identity");
        let who = if identity.is_empty() {
            "(never identified)".to_owned()
        } else {
            identity
        };
        let reason = text("outcome");
        let row = rows.entry((who, reason)).or_default();
        row.0 += 1;
        let server = text("server");
        if !server.is_empty() {
            *row.1.entry(server).or_default() += 1;
        }
    }
    heading("Connections that ended, from the access log");
    say(&format!(
        "{:<22} {:<22} {:>5}  by server",
        "who", "outcome", "count"
    ));
    for ((who, reason), (count, servers)) in rows {
        let servers: Vec<_> = servers
            .iter()
            .map(|(name, count)| format!("{name}: {count}"))
            .collect();
        let row = format!("{who:<22} {reason:<22} {count:>5}  {}", servers.join(", "));
        say(row.trim_end());
    }
    line("");
}
