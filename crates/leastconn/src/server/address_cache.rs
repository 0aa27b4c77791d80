//! The resolved IP addresses of a server. The module `net` performs the lookups.

use std::{io, net::SocketAddr, time::Instant};

use tokio::sync::watch;

use crate::sync::{Arc, Mutex};

pub(crate) type Addresses = Arc<[SocketAddr]>;

/// The result of a lookup. `None` while the lookup is running.
pub(crate) type Outcome = Option<Result<Addresses, Arc<io::Error>>>;

/// The cached addresses of one server. The cache is shared with the lookup in progress.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressCache(pub(crate) Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) answer: Option<Answer>,
    /// The last lookup's error, if it failed.
    pub(crate) failure: Option<Arc<io::Error>>,
    pub(crate) running: Option<watch::Receiver<Outcome>>,
    /// When the last lookup ended.
    pub(crate) looked_up: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) addresses: Addresses,
    /// When the lookup ended.
    pub(crate) at: Instant,
    /// When a new lookup is due.
    pub(crate) stale: Instant,
}

impl State {
    pub(crate) fn fresh(&self, now: Instant) -> Option<Addresses> {
        self.answer
            .as_ref()
            .filter(|answer| now < answer.stale)
            .map(|answer| Arc::clone(&answer.addresses))
    }

    /// Returns the receiver of the lookup in progress. A dropped sender means that the lookup has
    /// ended together with its runtime.
    pub(crate) fn running(&self) -> Option<watch::Receiver<Outcome>> {
        let running = self.running.as_ref();
        running.filter(|r| r.has_changed().is_ok()).cloned()
    }
}
