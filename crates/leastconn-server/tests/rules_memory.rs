//! Many client rules stay within a byte budget once they are in use.
//!
//! Alone in its file: the allocator counts for the whole process.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{fmt::Write, path::Path};

use leastconn_server::{config, state::State};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// For each rule, its name of 11 and its common name of 18 bytes included. What
/// a process has besides, for what was freed, may double it: 256 is the promise.
const BUDGET: usize = 128;

/// What a user writes for each client, with limits of its own for some.
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

/// Bytes that last, once `rules` rules are in use.
async fn retained(rules: usize) -> usize {
    let text = file(rules);
    let before = ALLOCATED.current_usage();
    // The warnings, which hold on to the text, are not kept.
    let config = config::load_text("leastconn.toml", &text, Path::new(""))
        .unwrap()
        .config;
    assert_eq!(config.clients.len(), rules);
    let state = State::start(config).unwrap();
    let bytes = ALLOCATED.current_usage() - before;
    drop(state);
    bytes
}

#[tokio::test]
async fn rule_memory_stays_within_budget() {
    const FEW: usize = 1;
    const MANY: usize = 20_000;
    // What is made once is made.
    retained(FEW).await;
    let each = (retained(MANY).await - retained(FEW).await) / (MANY - FEW);
    assert!(each <= BUDGET, "{each} bytes for each rule");
}
