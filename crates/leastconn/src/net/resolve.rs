//! A short-lived cache of a server's IP addresses.
//!
//! Names are resolved by the system resolver, so `/etc/hosts` and container DNS work. It does
//! not report a TTL; [`FRESH`] is short enough to follow a container that moved.
//!
//! Each server has at most one lookup at a time, in its own task. The system resolver occupies a
//! thread until it is done, even if the connection that requested the lookup was cancelled, so
//! lookups per connection would accumulate threads. All waiting connections share the result.
//!
//! A stale answer is used while a lookup refreshes it. If the resolver fails or is slow, the last
//! answer stays in use, so that a DNS outage does not take down servers that did not move. An
//! answer older than [`OLD`] is used only if no newer one arrives within [`WAIT`], and an answer
//! older than [`EXPIRED`] is not used.

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

/// How long an answer is used without a new lookup.
const FRESH: Duration = Duration::from_secs(5);

/// Least time between lookups while a server or the resolver fails.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Beyond this age, connections wait for a newer answer first: the name may have moved during a
/// long time without connections.
const OLD: Duration = Duration::from_secs(3600);

/// How long connections wait for a newer answer if there is only an old one.
const WAIT: Duration = Duration::from_millis(500);

/// Beyond this age, an answer is not used. Three days, as RFC 8767 recommends at most.
const EXPIRED: Duration = Duration::from_secs(3 * 86_400);

type Addresses = Arc<[SocketAddr]>;
/// `None` while the lookup runs.
type Outcome = Option<Result<Addresses, Arc<io::Error>>>;

/// The cached addresses of one server.
#[derive(Debug, Default)]
pub(crate) struct Resolved(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    answer: Option<Answer>,
    running: Option<watch::Receiver<Outcome>>,
    /// When the last lookup ended.
    looked_up: Option<Instant>,
}

#[derive(Debug)]
struct Answer {
    addresses: Addresses,
    /// When the lookup ended.
    at: Instant,
    /// When a new lookup is due.
    stale: Instant,
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
            let running = state.running();
            let running = match running {
                Some(running) => running,
                None => self.look_up(&mut state, ask(Arc::clone(host), port)),
            };
            let answer = state.answer.as_ref();
            let age = |answer: &Answer| now.saturating_duration_since(answer.at);
            let answer = answer.filter(|answer| age(answer) < EXPIRED);
            if let Some(answer) = answer.filter(|answer| age(answer) < OLD) {
                return Ok(Arc::clone(&answer.addresses));
            }
            (answer.map(|answer| Arc::clone(&answer.addresses)), running)
        };
        let Some(earlier) = earlier else {
            return outcome(running).await;
        };
        match timeout(WAIT, outcome(running)).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "DNS lookup failed, using the last answer");
                Ok(earlier)
            }
            Err(_) => {
                tracing::debug!(%address, "DNS lookup is slow, using the last answer");
                Ok(earlier)
            }
        }
    }

    /// Starts a new lookup after a failed connect, because the server may have moved.
    pub(crate) fn invalidate(&self, address: &Address, now: Instant) {
        self.invalidate_by(address, now, addresses_of);
    }

    fn invalidate_by<F>(
        &self,
        address: &Address,
        now: Instant,
        ask: impl FnOnce(Arc<str>, u16) -> F,
    ) where
        F: Future<Output = io::Result<Addresses>> + Send + 'static,
    {
        let Address::Name { host, port } = address else {
            return;
        };
        let mut state = lock(&self.0);
        let last = state.looked_up;
        let recently = last.is_some_and(|at| now.saturating_duration_since(at) < MIN_INTERVAL);
        if !recently && state.running().is_none() {
            self.look_up(&mut state, ask(Arc::clone(host), *port));
        }
    }

    fn look_up(
        &self,
        state: &mut State,
        asking: impl Future<Output = io::Result<Addresses>> + Send + 'static,
    ) -> watch::Receiver<Outcome> {
        let running = look_up(Arc::clone(&self.0), asking);
        state.running = Some(running.clone());
        running
    }
}

impl State {
    fn fresh(&self, now: Instant) -> Option<Addresses> {
        self.answer
            .as_ref()
            .filter(|answer| now < answer.stale)
            .map(|answer| Arc::clone(&answer.addresses))
    }

    /// The lookup in progress. A lookup whose sender was dropped has ended with its runtime.
    fn running(&self) -> Option<watch::Receiver<Outcome>> {
        let running = self.running.as_ref();
        running.filter(|r| r.has_changed().is_ok()).cloned()
    }
}

async fn outcome(mut running: watch::Receiver<Outcome>) -> io::Result<Addresses> {
    let outcome = running.wait_for(Option::is_some).await;
    match outcome.as_deref() {
        Ok(Some(Ok(addresses))) => Ok(Arc::clone(addresses)),
        // Keep the OS error code: the classification of the fault depends on it.
        Ok(Some(Err(error))) => Err(error.raw_os_error().map_or_else(
            || io::Error::new(error.kind(), Arc::clone(error)),
            io::Error::from_raw_os_error,
        )),
        // The task ended without an outcome: the runtime is shutting down.
        Ok(None) | Err(_) => Err(io::Error::other("the lookup was cancelled")),
    }
}

/// Starts a lookup that continues when its callers are cancelled.
fn look_up(
    state: Arc<Mutex<State>>,
    asking: impl Future<Output = io::Result<Addresses>> + Send + 'static,
) -> watch::Receiver<Outcome> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let result = asking.await;
        let mut state = lock(&state);
        state.running = None;
        state.looked_up = Some(now());
        match &result {
            Ok(addresses) => {
                let now = now();
                state.answer = Some(Answer {
                    addresses: Arc::clone(addresses),
                    at: now,
                    stale: now + FRESH,
                });
            }
            // Do not start a lookup for each connection.
            Err(_) => {
                if let Some(answer) = &mut state.answer {
                    answer.stale = now() + MIN_INTERVAL;
                }
            }
        }
        // Send while the lock is held: a caller that sees no running lookup sees its result.
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
    // A resolver that cannot open files or sockets reports the name as unknown.
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
