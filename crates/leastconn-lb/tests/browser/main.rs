//! Tests of the dashboard in Chromium, which is controlled over its debugging pipe.
//!
//! `make test-browser` fails without Chromium. Other test runs skip these tests with a
//! message.

// Helpers panic like the tests that call them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chromium;
mod page;
#[path = "../e2e/support.rs"]
// This test binary uses only part of the module.
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

mod accessibility;
mod content_security_policy;
mod contrast;
mod dense_tables;
mod figures;
mod fleet;
mod kill_connection;
mod large_tables;
mod latency_and_history;
mod problem_notices;
mod server_state;
mod slow_start;
mod table_keyboard;
mod trouble_first;
