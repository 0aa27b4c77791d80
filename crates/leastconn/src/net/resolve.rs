//! A server's IP addresses, remembered for a short while.
//!
//! Names are looked up by the system's resolver, so `/etc/hosts` and container
//! DNS work as everywhere else. It does not tell how long an answer holds;
//! [`FRESH`] is short enough to follow a container that moved, and one look-up
//! at a time for each server keeps a slow resolver from piling up threads. When
//! the resolver fails, the last answer serves on: a DNS outage must not take
//! down servers that did not move.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{Address, sync::lock};

/// How long an answer is used without asking again.
const FRESH: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Answer {
    addresses: Arc<[SocketAddr]>,
    at: Instant,
}

/// What is known of one server's addresses.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    answer: Mutex<Option<Answer>>,
    looking_up: tokio::sync::Mutex<()>,
}

impl Resolved {
    /// The IP addresses of `address`, all of them, in the resolver's order.
    pub(crate) async fn addresses(
        &self,
        address: &Address,
        now: Instant,
    ) -> io::Result<Arc<[SocketAddr]>> {
        let (host, port) = match address {
            Address::Ip(address) => return Ok([*address].into()),
            Address::Name { host, port } => (&**host, *port),
        };
        let earlier = self.answer();
        let is_fresh = |answer: &Answer| now.saturating_duration_since(answer.at) < FRESH;
        if let Some(answer) = earlier.as_ref().filter(|answer| is_fresh(answer)) {
            return Ok(Arc::clone(&answer.addresses));
        }
        let _turn = match (self.looking_up.try_lock(), &earlier) {
            (Ok(turn), _) => turn,
            // Somebody else is asking; what was true a moment ago will do.
            (Err(_), Some(answer)) => return Ok(Arc::clone(&answer.addresses)),
            (Err(_), None) => {
                let turn = self.looking_up.lock().await;
                if let Some(answer) = self.answer().filter(is_fresh) {
                    return Ok(answer.addresses);
                }
                turn
            }
        };
        let looked_up = tokio::net::lookup_host((host, port))
            .await
            .and_then(|found| {
                let found: Arc<[SocketAddr]> = found.collect();
                if found.is_empty() {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        "the name has no address",
                    ));
                }
                Ok(found)
            });
        match (looked_up, earlier) {
            (Ok(addresses), _) => {
                let answer = Answer { addresses, at: now };
                let addresses = Arc::clone(&answer.addresses);
                *lock(&self.answer) = Some(answer);
                Ok(addresses)
            }
            (Err(error), Some(stale)) => {
                tracing::debug!(%address, %error, "look-up failed, using the last answer");
                Ok(stale.addresses)
            }
            (Err(error), None) => Err(io::Error::new(
                error.kind(),
                format!("cannot resolve `{host}`: {error}"),
            )),
        }
    }

    /// A connect failed: ask again before the next, the server may have moved.
    pub(crate) fn doubt(&self, now: Instant) {
        // Not more often than each second: a dead server must not turn every
        // connection into a look-up.
        const AGAIN: Duration = Duration::from_secs(1);
        if let Some(answer) = &mut *lock(&self.answer)
            && now.saturating_duration_since(answer.at) >= AGAIN
            && let Some(stale) = now.checked_sub(FRESH)
        {
            answer.at = stale;
        }
    }

    fn answer(&self) -> Option<Answer> {
        lock(&self.answer).clone()
    }
}
