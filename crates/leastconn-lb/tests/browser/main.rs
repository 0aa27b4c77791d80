//! The dashboard in a real Chromium, which is driven over its debugging pipe.
//!
//! `make test-browser` runs these, and fails without Chromium; in other runs of all
//! tests they are passed over, with a word, where there is none.

// A test that fails is a panic, in its helpers, too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chromium;
mod page;
#[path = "../e2e/support.rs"]
// Not all of what other tests need is needed here.
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

mod accessibility;
mod content_security_policy;
mod figures;
mod kill_connection;
mod large_tables;
mod problem_notices;
mod server_state;
mod slow_start;
