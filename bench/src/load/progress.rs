//! One line that changes, on a terminal; nothing elsewhere.

use std::io::{IsTerminal, Write, stderr};

/// The line.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
}

impl Default for Progress {
    /// On standard error, if that is a terminal.
    fn default() -> Self {
        Self {
            terminal: stderr().is_terminal(),
        }
    }
}

impl Progress {
    /// Replaces what it says.
    pub fn show(&mut self, text: &str) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[2K{text}");
            let _ = stderr().flush();
        }
    }

    /// Takes it away.
    pub fn clear(&mut self) {
        self.show("");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
