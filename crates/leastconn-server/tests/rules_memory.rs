//! Memory per client rule of an applied configuration.
//!
//! This is the only test of its binary, because the allocator counts the allocations of the whole
//! process.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{fmt::Write, path::Path};

use leastconn_server::snapshot::Snapshot;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Bytes per rule, including a name of 11 bytes and a common name of 18 bytes. The
/// documented limit is 256 bytes, because freed memory may double the size of a process.
const BUDGET: usize = 128;

/// A configuration with `rules` client rules.
fn file(rules: usize) -> String {
    let mut text = String::from(
        "[[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\nupstream = \"web\"\n\
         [[upstream]]\nname = \"web\"\nhealth_check = { type = \"none\" }\n\
         servers = [{ name = \"s1\", address = \"127.0.0.1:1\" }, \
                    { name = \"s2\", address = \"127.0.0.1:2\" }]\n",
    );
    for number in 0..rules {
        let server = ["", "/s1", "/s2"][number % 3];
        let rate = number % 10 + 1;
        write!(
            text,
            "[[client]]\nname = \"other-{number}\"\nmatch = {{ cn = \"other-{number}.lb.com\", \
             source = \"127.0.0.0/8\" }}\nallow = [\"web{server}\"]\n\
             rate_limit = {{ rate = {rate}, burst = 10 }}\nmax_conns = 100\n"
        )
        .unwrap();
    }
    text
}

/// Bytes allocated while a configuration with `rules` rules is applied.
async fn retained(rules: usize) -> usize {
    let text = file(rules);
    let before = ALLOCATED.current_usage();
    // Drop the warnings, which hold the text of the file.
    let config = leastconn_config::load_text("leastconn.toml", &text, Path::new(""))
        .unwrap()
        .config;
    assert_eq!(config.clients.len(), rules);
    let state = Snapshot::start(config).unwrap();
    let bytes = ALLOCATED.current_usage() - before;
    drop(state);
    bytes
}

#[tokio::test]
async fn rule_memory_stays_within_budget() {
    const FEW: usize = 1;
    const MANY: usize = 20_000;
    // Make the allocations that occur only once per process before measuring.
    retained(FEW).await;
    let each = (retained(MANY).await - retained(FEW).await) / (MANY - FEW);
    assert!(each <= BUDGET, "{each} bytes per rule");
}
