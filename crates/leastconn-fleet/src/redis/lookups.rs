//! Host names of servers and sentinels.

use std::{collections::HashMap, io, net::SocketAddr, pin::Pin, time::Duration};

use tokio::{net::lookup_host, time::timeout};

/// How long to wait for a look-up if the addresses of an earlier one are known.
const WAIT: Duration = Duration::from_millis(300);

/// Host names that are remembered. Sentinels and clusters can name others than the configuration.
const MAX_HOSTS: usize = 64;

type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
type Resolve = Box<dyn Fn(String, u16) -> Found + Send>;

/// Looks up addresses. A look-up takes as long as the name servers need, which can be longer than
/// an attempt to connect: it then continues for the next attempt.
pub(super) struct Lookups {
    resolve: Resolve,
    hosts: HashMap<(String, u16), Lookup>,
}

#[derive(Default)]
struct Lookup {
    running: Option<Found>,
    /// The addresses of the last successful look-up.
    last: Vec<SocketAddr>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self::new(Box::new(|host, port| {
            Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
        }))
    }
}

impl Lookups {
    fn new(resolve: Resolve) -> Self {
        Self {
            resolve,
            hosts: HashMap::new(),
        }
    }

    /// Returns the addresses of a host, or those of the last successful look-up if this one fails
    /// or takes long.
    ///
    /// # Cancel safety
    /// The next call waits for the same look-up.
    ///
    /// # Errors
    /// If the host name cannot be resolved, and never was.
    pub(super) async fn find(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let key = (host.to_owned(), port);
        if self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(&key) {
            self.hosts.clear();
        }
        let lookup = self.hosts.entry(key).or_default();
        let running = lookup
            .running
            .get_or_insert_with(|| (self.resolve)(host.to_owned(), port));
        let result = match lookup.last.is_empty() {
            true => running.await,
            false => match timeout(WAIT, running).await {
                Ok(result) => result,
                Err(_) => return Ok(lookup.last.clone()),
            },
        };
        lookup.running = None;
        match result {
            Ok(found) => lookup.last = found,
            Err(error) if lookup.last.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(lookup.last.clone())
    }

    /// A connection was opened. The next one needs new look-ups, and not the results of those that
    /// are still running.
    pub(super) fn forget_running(&mut self) {
        for lookup in self.hosts.values_mut() {
            lookup.running = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use tokio::time::{Instant, sleep};

    use super::*;

    /// A name server that needs `delay` milliseconds. The port of the answer is the number of the
    /// query.
    fn slow(delay: &Arc<AtomicU64>) -> Lookups {
        let delay = Arc::clone(delay);
        let queries = AtomicU64::new(0);
        Lookups::new(Box::new(move |_, _| {
            let number = queries.fetch_add(1, Ordering::Relaxed) as u16;
            let delay = Duration::from_millis(delay.load(Ordering::Relaxed));
            Box::pin(async move {
                sleep(delay).await;
                Ok(vec![SocketAddr::from(([192, 0, 2, 1], number))])
            })
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn slow_lookup_continues_in_later_attempts() {
        let delay = Arc::new(AtomicU64::new(5_000));
        let mut lookups = slow(&delay);
        let start = Instant::now();
        let found = loop {
            let attempt = timeout(Duration::from_secs(1), lookups.find("valkey", 1));
            match attempt.await {
                Ok(found) => break found.unwrap(),
                Err(_) => sleep(Duration::from_millis(500)).await,
            }
        };
        assert_eq!(found[0].port(), 0);
        assert!(
            start.elapsed() < Duration::from_secs(6),
            "{:?}",
            start.elapsed()
        );

        // Later, the known address is used, and replaced when the answer is there.
        lookups.forget_running();
        let found = timeout(Duration::from_secs(1), lookups.find("valkey", 1)).await;
        assert_eq!(found.unwrap().unwrap()[0].port(), 0);
        sleep(Duration::from_secs(5)).await;
        let found = lookups.find("valkey", 1).await.unwrap();
        assert_eq!(found[0].port(), 1);
    }

    #[tokio::test]
    async fn failed_lookup_uses_the_last_addresses() {
        let fails = Arc::new(AtomicU64::new(0));
        let failing = Arc::clone(&fails);
        let mut lookups = Lookups::new(Box::new(move |_, _| {
            let fails = failing.load(Ordering::Relaxed) > 0;
            Box::pin(async move {
                match fails {
                    true => Err(io::Error::other("no answer")),
                    false => Ok(vec![SocketAddr::from(([192, 0, 2, 1], 1))]),
                }
            })
        }));
        assert_eq!(lookups.find("valkey", 1).await.unwrap().len(), 1);
        fails.store(1, Ordering::Relaxed);
        assert_eq!(lookups.find("valkey", 1).await.unwrap().len(), 1);
        assert!(lookups.find("other", 1).await.is_err());
    }
}
