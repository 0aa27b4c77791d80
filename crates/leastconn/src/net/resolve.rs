//! A server's IP addresses, remembered for a short while.
//!
//! Names are looked up by the system's resolver, so `/etc/hosts` and container
//! DNS work as everywhere else. It does not tell how long an answer holds;
//! [`FRESH`] is short enough to follow a container that moved.
//!
//! There is one look-up at a time for each server, in a task of its own: the
//! system's resolver occupies a thread until it is done, however long ago the
//! connection that asked was given up, so look-ups that end with whoever asked
//! would pile up threads. All who wait share its outcome.
//!
//! When the resolver fails, or is slow, the last answer serves on: a DNS outage
//! must not take down servers that did not move.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpSocket, lookup_host},
    sync::watch,
    time::timeout,
};

use super::{
    failure::{Fault, fault},
    now,
};
use crate::{Address, sync::lock};

/// How long an answer is used without asking again.
const FRESH: Duration = Duration::from_secs(5);

/// A dead server, or a dead resolver, must not turn every connection into a
/// look-up: not more often than this.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a newer answer is waited for when there is an earlier one.
const PATIENCE: Duration = Duration::from_millis(500);

type Addresses = Arc<[SocketAddr]>;
/// `None` while the look-up runs.
type Outcome = Option<Result<Addresses, Arc<io::Error>>>;

/// What is known of one server's addresses.
#[derive(Debug, Default)]
pub(crate) struct Resolved(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    answer: Option<Answer>,
    running: Option<watch::Receiver<Outcome>>,
}

#[derive(Debug)]
struct Answer {
    addresses: Addresses,
    at: Instant,
}

impl Resolved {
    /// The IP addresses of `address`, all of them, in the resolver's order.
    pub(crate) async fn addresses(&self, address: &Address, now: Instant) -> io::Result<Addresses> {
        self.addresses_by(address, now, addresses_of).await
    }

    async fn addresses_by<F>(
        &self,
        address: &Address,
        now: Instant,
        ask: impl FnOnce(Arc<str>, u16) -> F,
    ) -> io::Result<Addresses>
    where
        F: Future<Output = io::Result<Addresses>> + Send + 'static,
    {
        let (host, port) = match address {
            Address::Ip(address) => return Ok([*address].into()),
            Address::Name { host, port } => (host, *port),
            // Connected to by its path.
            Address::Unix(_) => return Ok(Arc::default()),
        };
        let (earlier, running) = {
            let mut state = lock(&self.0);
            if let Some(addresses) = state.fresh(now) {
                return Ok(addresses);
            }
            let earlier = state.answer.as_ref().map(|a| Arc::clone(&a.addresses));
            // Without its sender, a look-up was cut off: its runtime ended.
            let running = state.running.as_ref().filter(|r| r.has_changed().is_ok());
            match (running, earlier) {
                // Somebody else is asking; what was true a moment ago will do.
                (Some(_), Some(earlier)) => return Ok(earlier),
                (Some(running), None) => (None, running.clone()),
                (None, earlier) => {
                    let running = look_up(Arc::clone(&self.0), ask(Arc::clone(host), port));
                    state.running = Some(running.clone());
                    (earlier, running)
                }
            }
        };
        let Some(earlier) = earlier else {
            return outcome(running).await;
        };
        match timeout(PATIENCE, outcome(running)).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "look-up failed, using the last answer");
                Ok(earlier)
            }
            Err(_) => {
                tracing::debug!(%address, "look-up is slow, using the last answer");
                Ok(earlier)
            }
        }
    }

    /// A connect failed: ask again before the next, the server may have moved.
    pub(crate) fn doubt(&self, now: Instant) {
        if let Some(answer) = &mut lock(&self.0).answer
            && now.saturating_duration_since(answer.at) >= AGAIN
            && let Some(stale) = now.checked_sub(FRESH)
        {
            answer.at = stale;
        }
    }
}

impl State {
    fn fresh(&self, now: Instant) -> Option<Addresses> {
        self.answer
            .as_ref()
            .filter(|answer| now.saturating_duration_since(answer.at) < FRESH)
            .map(|answer| Arc::clone(&answer.addresses))
    }
}

async fn outcome(mut running: watch::Receiver<Outcome>) -> io::Result<Addresses> {
    let outcome = running.wait_for(Option::is_some).await;
    match outcome.as_deref() {
        Ok(Some(Ok(addresses))) => Ok(Arc::clone(addresses)),
        // Kept whole where it has a number: whose fault it is depends on it.
        Ok(Some(Err(error))) => Err(error.raw_os_error().map_or_else(
            || io::Error::new(error.kind(), Arc::clone(error)),
            io::Error::from_raw_os_error,
        )),
        // The task ended without an outcome: the runtime is shutting down.
        Ok(None) | Err(_) => Err(io::Error::other("the look-up was cut off")),
    }
}

/// Starts a look-up that nobody's leaving ends.
fn look_up(
    state: Arc<Mutex<State>>,
    asking: impl Future<Output = io::Result<Addresses>> + Send + 'static,
) -> watch::Receiver<Outcome> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let result = asking.await;
        let mut state = lock(&state);
        state.running = None;
        match &result {
            Ok(addresses) => {
                state.answer = Some(Answer {
                    addresses: Arc::clone(addresses),
                    at: now(),
                });
            }
            // The last answer stays good for as long as it takes to ask again.
            Err(_) => {
                if let (Some(answer), Some(at)) =
                    (&mut state.answer, now().checked_sub(FRESH - AGAIN))
                {
                    answer.at = at;
                }
            }
        }
        // Within the lock: whoever sees no look-up running sees its outcome.
        sender.send_replace(Some(result.map_err(Arc::new)));
    });
    receiver
}

async fn addresses_of(host: Arc<str>, port: u16) -> io::Result<Addresses> {
    let error = match lookup_host((&*host, port)).await {
        Ok(found) => {
            let found: Addresses = found.collect();
            if !found.is_empty() {
                return Ok(found);
            }
            io::Error::new(io::ErrorKind::NotFound, "the name has no address")
        }
        Err(error) => error,
    };
    // A resolver that cannot open its files or a socket calls the name unknown.
    if let Err(own) = TcpSocket::new_v4()
        && fault(&own) == Fault::Exhausted
    {
        return Err(own);
    }
    Err(io::Error::new(
        error.kind(),
        format!("cannot resolve `{host}`: {error}"),
    ))
}

#[cfg(test)]
mod tests;
