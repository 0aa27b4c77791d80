//! A progress line on a terminal.

use std::io::{IsTerminal, Write, stderr};

/// A line that is overwritten in place, if standard error is a terminal.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            terminal: stderr().is_terminal(),
        }
    }
}

impl Progress {
    pub fn show(&mut self, text: &str) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[2K{text}");
            let _ = stderr().flush();
        }
    }

    pub fn clear(&mut self) {
        self.show("");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
