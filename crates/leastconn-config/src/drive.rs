//! Invariants of loading a configuration, for property tests and fuzzing.

use std::{env::VarError, path::Path};

use jiff::Timestamp;

use crate::{Problems, Reading, read_text};

/// Loads arbitrary text, at a fixed time and without environment variables. Relative paths lead to
/// files that do not exist.
pub(crate) fn configuration(text: &str) {
    let reading = read_text(
        Problems::new("leastconn.toml", text),
        text,
        Path::new("/nowhere"),
        &|_| Err(VarError::NotPresent),
        Timestamp::UNIX_EPOCH,
    );
    check(&reading);
}

/// Renders all problems, and checks that a configuration is returned exactly if there are no
/// errors.
pub(crate) fn check(reading: &Reading) {
    let problems = &reading.problems;
    assert_eq!(reading.config.is_some(), problems.errors() == 0);
    let _ = (
        problems.render(true),
        problems.render(false),
        problems.summary(),
    );
    for line in problems.lines() {
        assert!(!line.contains('\n'), "{line:?}");
    }
}
