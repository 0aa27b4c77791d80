//! A short-lived cache of a server's IP addresses.
//!
//! Names are resolved by the system resolver, so that `/etc/hosts` and container DNS work. The
//! system resolver does not report a TTL. [`FRESH`] is short enough to follow a container that
//! moves to another address.
//!
//! Each server has at most one lookup in progress, which runs in its own task. All waiting
//! connections share the result. With one lookup per connection, threads would pile up: the system
//! resolver occupies a thread until the lookup completes, even if the connection that requested it
//! was cancelled.
//!
//! While a lookup refreshes a stale answer, the stale answer is used. If the resolver fails or is
//! slow, the last answer stays in use. A DNS outage therefore does not take down servers whose
//! addresses have not changed. An answer older than [`OLD`] is used only if no newer answer arrives
//! within [`WAIT`]. An answer older than [`EXPIRED`] is never used.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpSocket, lookup_host},
    sync::watch,
    time::timeout,
};

use super::{connect_fault::ConnectFault, now};
use crate::{
    Address,
    server::{
        AddressCache,
        address_cache::{Addresses, Answer, Outcome, State},
    },
};

/// How long an answer is used without another lookup.
const FRESH: Duration = Duration::from_secs(5);

/// Minimum time between lookups while connects or lookups fail. If there is no earlier answer, the
/// last lookup's error is reported for this long. The exception is a lookup that failed because
/// this process is out of file descriptors or memory: the next connection repeats it immediately.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// If the answer is older than this, connections first wait for a newer one: during a long time
/// without connections, the server's address may have changed.
const OLD: Duration = Duration::from_secs(3600);

/// How long connections wait for a newer answer if the cached one is older than [`OLD`].
const WAIT: Duration = Duration::from_millis(500);

/// Answers older than this are never used. Three days is the maximum that RFC 8767 recommends.
const EXPIRED: Duration = Duration::from_secs(3 * 86_400);

/// Returns all IP addresses of `address`, in the resolver's order. `cache` is the cache of the
/// server at `address`.
pub(super) async fn resolve(
    cache: &AddressCache,
    address: &Address,
    now: Instant,
) -> io::Result<Addresses> {
    resolve_by(cache, address, now, addresses_of).await
}

async fn resolve_by<F>(
    cache: &AddressCache,
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
        // A UNIX socket has a path instead of an IP address.
        Address::Unix(_) => return Ok(Arc::default()),
    };
    let (earlier, running) = {
        let mut state = cache.0.lock();
        if let Some(addresses) = state.fresh(now) {
            return Ok(addresses);
        }
        let age = |answer: &Answer| now.saturating_duration_since(answer.at);
        let answer = state.answer.as_ref();
        let answer = answer.filter(|answer| age(answer) < EXPIRED);
        let is_recent = answer.is_some_and(|answer| age(answer) < OLD);
        let addresses = answer.map(|answer| Arc::clone(&answer.addresses));
        let running = match state.running() {
            Some(running) => running,
            None => match (recent_failure(&state, now), &addresses) {
                (Some(_), Some(addresses)) => return Ok(Arc::clone(addresses)),
                (Some(error), None) if ConnectFault::of(error) != ConnectFault::Exhausted => {
                    return Err(copy_of(error));
                }
                _ => look_up(cache, &mut state, ask(Arc::clone(host), port)),
            },
        };
        match addresses {
            Some(addresses) if is_recent => return Ok(addresses),
            addresses => (addresses, running),
        }
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

/// Starts a new lookup after a failed connect, because the server's address may have changed.
pub(super) fn invalidate(cache: &AddressCache, address: &Address, now: Instant) {
    invalidate_by(cache, address, now, addresses_of);
}

fn invalidate_by<F>(
    cache: &AddressCache,
    address: &Address,
    now: Instant,
    ask: impl FnOnce(Arc<str>, u16) -> F,
) where
    F: Future<Output = io::Result<Addresses>> + Send + 'static,
{
    let Address::Name { host, port } = address else {
        return;
    };
    let mut state = cache.0.lock();
    if !was_asked_recently(&state, now) && state.running().is_none() {
        look_up(cache, &mut state, ask(Arc::clone(host), *port));
    }
}

/// Whether the last lookup ended less than [`MIN_INTERVAL`] ago.
fn was_asked_recently(state: &State, now: Instant) -> bool {
    let ended = state.looked_up;
    ended.is_some_and(|at| now.saturating_duration_since(at) < MIN_INTERVAL)
}

/// Returns the last lookup's error if it failed less than [`MIN_INTERVAL`] ago.
fn recent_failure(state: &State, now: Instant) -> Option<&Arc<io::Error>> {
    let failure = state.failure.as_ref();
    failure.filter(|_| was_asked_recently(state, now))
}

async fn outcome(mut running: watch::Receiver<Outcome>) -> io::Result<Addresses> {
    let outcome = running.wait_for(Option::is_some).await;
    match outcome.as_deref() {
        Ok(Some(Ok(addresses))) => Ok(Arc::clone(addresses)),
        Ok(Some(Err(error))) => Err(copy_of(error)),
        // The task ended without a result, because the runtime is shutting down.
        Ok(None) | Err(_) => Err(io::Error::other("the lookup was cancelled")),
    }
}

/// Returns a copy with the same OS error code, because faults are classified by this code.
fn copy_of(error: &Arc<io::Error>) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::new(error.kind(), Arc::clone(error)),
        io::Error::from_raw_os_error,
    )
}

/// Starts a lookup that continues even if its callers are cancelled.
fn look_up(
    cache: &AddressCache,
    state: &mut State,
    asking: impl Future<Output = io::Result<Addresses>> + Send + 'static,
) -> watch::Receiver<Outcome> {
    let (sender, receiver) = watch::channel(None);
    state.running = Some(receiver.clone());
    let cache = cache.clone();
    tokio::spawn(async move {
        let result = asking.await.map_err(Arc::new);
        let mut state = cache.0.lock();
        let now = now();
        state.running = None;
        state.looked_up = Some(now);
        state.failure = result.as_ref().err().cloned();
        if let Ok(addresses) = &result {
            state.answer = Some(Answer {
                addresses: Arc::clone(addresses),
                at: now,
                stale: now + FRESH,
            });
        }
        // Send while holding the lock: if a caller then sees no running lookup, it sees the result.
        sender.send_replace(Some(result));
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
    // A resolver that cannot open files or sockets reports that the name is unknown. Check whether
    // this process can still open a socket.
    if let Err(own) = TcpSocket::new_v4()
        && ConnectFault::of(&own) == ConnectFault::Exhausted
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
