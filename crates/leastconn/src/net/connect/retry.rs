//! Delays between rounds of connection attempts.

use std::time::{Duration, Instant};

use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

use crate::{
    Candidates, Pool,
    backoff::{Backoff, share},
    deadline,
    net::{now, random},
};

/// Delay before the second round.
const FIRST_DELAY: Duration = Duration::from_millis(100);

const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// When a server recovers, the waiting connections are dialled over this period, so that they do
/// not overflow the server's backlog.
const SPREAD: Duration = Duration::from_millis(50);

/// The schedule of all rounds after the first.
pub(super) struct Retry {
    deadline: Instant,
    backoff: Backoff,
    changes: watch::Receiver<bool>,
}

impl Retry {
    /// Allows further rounds to start until `time` from now.
    pub(super) fn new(pool: &Pool, time: Duration) -> Self {
        Self {
            deadline: deadline::after(now(), time),
            backoff: Backoff::new(FIRST_DELAY, LONGEST_DELAY),
            changes: pool.panicking(),
        }
    }

    /// Waits until the next round may start. Returns `false` if the time for further rounds is
    /// over.
    pub(super) async fn wait(&mut self, candidates: &Candidates) -> bool {
        let start = now();
        if start >= self.deadline {
            return false;
        }
        let end = self.deadline.min(start + self.backoff.next_delay(random()));
        let end = sleep_until(end.into());
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return true,
                changed = self.changes.changed() => {
                    let any = || candidates.members().iter().any(|m| m.server.is_available());
                    if changed.is_err() || any() {
                        break;
                    }
                }
            }
        }
        tokio::select! {
            () = &mut end => {}
            () = sleep(share(SPREAD, random())) => {}
        }
        true
    }
}
