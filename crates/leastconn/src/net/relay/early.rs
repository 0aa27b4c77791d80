//! Detects connections that fail early, and records the result in the server's health.

use std::time::{Duration, Instant, SystemTime};

use super::{super::now, pair::Pair};
use crate::{Failure, Server, health::EARLY, net::Stream};

/// The error that is shown when early failures eject a server.
const ERROR: &str = "closed connections without sending data";

/// Watches a connection until it is known whether it fails early.
pub(super) struct EarlyWatch<'a> {
    server: &'a Server,
    established: Instant,
    /// Whether the watch has ended.
    is_done: bool,
    /// Whether to examine the connection when [`EARLY`] has passed. Set only if a success would end
    /// an ejection or clear failures; other connections need no timer.
    needs_check: bool,
}

impl<'a> EarlyWatch<'a> {
    pub(super) fn new(server: &'a Server, established: Instant) -> Self {
        Self {
            server,
            established,
            is_done: false,
            needs_check: server.is_troubled(),
        }
    }

    /// When to poll next if no wake-up occurs earlier.
    pub(super) fn next_check(&self) -> Option<Instant> {
        self.needs_check.then(|| self.established + EARLY)
    }

    /// Examines the connection after each poll.
    pub(super) fn observe(&mut self, pair: &Pair<'_, impl Stream, impl Stream>) {
        if self.is_done {
            return;
        }
        if pair.has_server_sent() {
            self.served();
        } else if pair.is_server_ended() {
            // If the client ended the connection first, the server may end it without an answer.
            if self.has_outlasted_failures() {
                self.served();
            } else if self.elapsed() < EARLY && !pair.is_client_ended() {
                self.failed();
            }
            self.finish();
        } else if self.next_check().is_some_and(|check| check <= now()) {
            self.served();
        }
    }

    /// Called when the connection ends. If it lasted for [`EARLY`] without another result, records
    /// a success.
    pub(super) fn end(&mut self) {
        if !self.is_done && self.has_outlasted_failures() {
            self.served();
        }
    }

    /// Whether the connection has lasted for [`EARLY`] since the failures that a success would
    /// clear. If it is older than these failures and has carried no data, it proves nothing: it may
    /// be ending because the server is failing.
    fn has_outlasted_failures(&self) -> bool {
        self.needs_check && self.elapsed() >= EARLY
    }

    fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.established)
    }

    const fn finish(&mut self) {
        self.is_done = true;
        self.needs_check = false;
    }

    fn served(&mut self) {
        self.finish();
        self.server.served(self.established);
    }

    fn failed(&mut self) {
        self.finish();
        let failure = Failure::new(SystemTime::now(), &ERROR);
        self.server.failed_early(self.established, now(), failure);
    }
}

#[cfg(test)]
mod tests;
