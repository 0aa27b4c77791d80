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

mod changes_a_server_s_state;
mod ends_a_connection;
mod is_fit_for_everybody;
mod runs_nothing_but_its_own;
mod shows_a_server_that_starts_slowly;
mod shows_what_the_api_says;
mod stays_light_with_very_many;
mod tells_when_something_is_wrong;
