//! A short-lived cache of a server's IP addresses.
//!
//! Names are resolved by the system resolver, so `/etc/hosts` and container DNS work. The
//! system resolver does not report a TTL. [`FRESH`] is short enough to follow a container
//! that moves to another address.
//!
//! For each server there is at most one lookup at a time, in a separate task. All waiting
//! connections share the result. With one lookup per connection, threads would accumulate: the
//! system resolver occupies a thread until the lookup completes, even if the connection that
//! requested it was cancelled.
//!
//! A stale answer is used while a lookup refreshes it. If the resolver fails or is slow, the
//! last answer remains in use. A DNS outage therefore does not take down servers whose
//! addresses have not changed. An answer older than [`OLD`] is used only if no newer answer
//! arrives within [`WAIT`]. An answer older than [`EXPIRED`] is not used.

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

use super::{
    failure::{Fault, fault},
    now,
};
use crate::{
    Address,
    server::{
        AddressCache,
        address_cache::{Addresses, Answer, Outcome, State},
    },
};

/// How long an answer is used without a new lookup.
const FRESH: Duration = Duration::from_secs(5);

/// Minimum time between lookups while connects or lookups fail. Without an earlier answer, a
/// failed lookup is repeated immediately for the next connection.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// If the answer is older than this, connections first wait for a newer answer: the server's
/// address may have changed during a long time without connections.
const OLD: Duration = Duration::from_secs(3600);

/// How long connections wait for a newer answer if the cached answer is older than [`OLD`].
const WAIT: Duration = Duration::from_millis(500);

/// Answers older than this are not used. Three days is the maximum that RFC 8767 recommends.
const EXPIRED: Duration = Duration::from_secs(3 * 86_400);

/// Returns all IP addresses of `address`, in the resolver's order. `cache` belongs to the
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
        let running = state.running();
        let running = match running {
            Some(running) => running,
            None => look_up(cache, &mut state, ask(Arc::clone(host), port)),
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

/// Starts a new lookup after a failed connect, because the server's address may have
/// changed.
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
    let last = state.looked_up;
    let recently = last.is_some_and(|at| now.saturating_duration_since(at) < MIN_INTERVAL);
    if !recently && state.running().is_none() {
        look_up(cache, &mut state, ask(Arc::clone(host), *port));
    }
}

async fn outcome(mut running: watch::Receiver<Outcome>) -> io::Result<Addresses> {
    let outcome = running.wait_for(Option::is_some).await;
    match outcome.as_deref() {
        Ok(Some(Ok(addresses))) => Ok(Arc::clone(addresses)),
        // Keep the OS error code: it determines how the fault is classified.
        Ok(Some(Err(error))) => Err(error.raw_os_error().map_or_else(
            || io::Error::new(error.kind(), Arc::clone(error)),
            io::Error::from_raw_os_error,
        )),
        // The task ended without a result, because the runtime is shutting down.
        Ok(None) | Err(_) => Err(io::Error::other("the lookup was cancelled")),
    }
}

/// Starts a lookup, which continues even if the callers are cancelled.
fn look_up(
    cache: &AddressCache,
    state: &mut State,
    asking: impl Future<Output = io::Result<Addresses>> + Send + 'static,
) -> watch::Receiver<Outcome> {
    let (sender, receiver) = watch::channel(None);
    state.running = Some(receiver.clone());
    let cache = cache.clone();
    tokio::spawn(async move {
        let result = asking.await;
        let mut state = cache.0.lock();
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
            // After a failure, limit the rate of lookups. Otherwise every connection would
            // start a lookup.
            Err(_) => {
                if let Some(answer) = &mut state.answer {
                    answer.stale = now() + MIN_INTERVAL;
                }
            }
        }
        // Send while holding the lock: a caller that sees no running lookup then sees the
        // result.
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
    // A resolver that cannot open files or sockets reports an unknown name. Check whether
    // this process can still open a socket.
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
