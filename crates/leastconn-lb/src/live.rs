//! The connections that are open now: to be listed, counted and ended.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use leastconn::{Reason, net::Traffic};
use tokio::sync::{Notify, watch};

use crate::{metrics::ListenerMetrics, proxy_protocol::Endpoints};

/// Few enough to walk, enough that workers rarely meet.
const SHARDS: usize = 16;

/// All open connections.
#[derive(Debug)]
pub struct Registry {
    next_id: AtomicU64,
    open: AtomicUsize,
    /// Told whenever `open` falls to zero.
    empty: watch::Sender<()>,
    shards: [Mutex<HashMap<u64, Arc<Live>>>; SHARDS],
}

/// One open connection.
#[derive(Debug)]
pub struct Live {
    /// Unique within the process.
    pub id: u64,
    /// The listener's name.
    pub listener: Arc<str>,
    /// Where the connection came from.
    peer: SocketAddr,
    /// Whose it is, if a PROXY header said so. Boxed: most have none.
    announced: OnceLock<Box<Endpoints>>,
    /// What it has carried so far.
    pub traffic: Traffic,
    metrics: Arc<ListenerMetrics>,
    /// How much of `traffic` is in the metrics: received, sent.
    metered: [AtomicU64; 2],
    stop: OnceLock<Reason>,
    stopped: Notify,
}

/// Keeps a connection in the registry while it lives.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    live: Arc<Live>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            next_id: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            empty: watch::Sender::new(()),
            shards: Default::default(),
        }
    }
}

impl Registry {
    /// Adds a connection.
    pub fn register(
        self: &Arc<Self>,
        listener: Arc<str>,
        metrics: Arc<ListenerMetrics>,
        peer: SocketAddr,
    ) -> Registered {
        let live = Arc::new(Live {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            listener,
            peer,
            announced: OnceLock::new(),
            traffic: Traffic::default(),
            metrics,
            metered: Default::default(),
            stop: OnceLock::new(),
            stopped: Notify::new(),
        });
        self.open.fetch_add(1, Ordering::AcqRel);
        self.with_shard(live.id, |shard| shard.insert(live.id, Arc::clone(&live)));
        Registered {
            registry: Arc::clone(self),
            live,
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Those that are open now.
    pub fn list(&self) -> Vec<Arc<Live>> {
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| {
                let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.values().cloned().collect::<Vec<_>>()
            })
            .collect()
    }

    /// Ends all for this reason, and returns how many that concerned.
    pub fn stop_all(&self, reason: Reason) -> usize {
        let live = self.list();
        live.iter().filter(|live| live.stop(reason)).count()
    }

    /// Brings what open connections have carried so far into the metrics.
    pub fn meter_traffic(&self) {
        for live in self.list() {
            live.meter_traffic();
        }
    }

    /// Waits until none is open.
    pub async fn wait_empty(&self) {
        let mut told = self.empty.subscribe();
        while self.open() > 0 {
            // The sender lives as long as `self`.
            let _ = told.changed().await;
        }
    }

    fn with_shard<T>(&self, id: u64, with: impl FnOnce(&mut HashMap<u64, Arc<Live>>) -> T) -> T {
        let shard = &self.shards[id as usize % SHARDS];
        with(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Live {
    /// The client's address: the one that a PROXY header announced, else that of
    /// whoever connected.
    pub fn source(&self) -> SocketAddr {
        self.announced().map_or(self.peer, |ends| ends.source)
    }

    /// Whose connection it is, if a PROXY header said so.
    pub fn announced(&self) -> Option<&Endpoints> {
        self.announced.get().map(|ends| &**ends)
    }

    /// The balancer that announced the client.
    pub fn proxy(&self) -> Option<SocketAddr> {
        self.announced().map(|_| self.peer)
    }

    /// A PROXY header said whose connection it is. Only the first call counts.
    pub fn announce(&self, ends: Endpoints) {
        let _ = self.announced.set(Box::new(ends));
    }

    /// Ends the connection for this reason, if nothing ended it before.
    pub fn stop(&self, reason: Reason) -> bool {
        let first = self.stop.set(reason).is_ok();
        if first {
            // One task waits; it may not have come to it yet.
            self.stopped.notify_one();
        }
        first
    }

    /// Brings what it has carried so far into the metrics.
    pub fn meter_traffic(&self) {
        let so_far = [self.traffic.received(), self.traffic.sent()];
        let counters = [&self.metrics.received, &self.metrics.sent];
        for ((now, metered), counter) in so_far.into_iter().zip(&self.metered).zip(counters) {
            // The larger one stays: of two who meter at once, with an older
            // and a newer number, none adds anything twice.
            let before = metered.fetch_max(now, Ordering::AcqRel);
            counter.inc_by(now.saturating_sub(before));
        }
    }

    /// It ended by itself, and what may still go on is only the good-bye: nobody
    /// can end it any more.
    pub fn ended(&self, reason: Reason) {
        let _ = self.stop.set(reason);
    }

    /// Waits until somebody ends the connection, and says why.
    pub async fn stopped(&self) -> Reason {
        loop {
            if let Some(&reason) = self.stop.get() {
                return reason;
            }
            self.stopped.notified().await;
        }
    }

    /// Runs `phase`, unless the connection is ended meanwhile.
    ///
    /// # Errors
    /// With the reason for which it was ended.
    pub async fn unless_stopped<T>(&self, phase: impl Future<Output = T>) -> Result<T, Reason> {
        tokio::select! {
            biased;
            reason = self.stopped() => Err(reason),
            done = phase => Ok(done),
        }
    }
}

impl std::ops::Deref for Registered {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry
            .with_shard(self.live.id, |shard| shard.remove(&self.live.id));
        if self.registry.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.registry.empty.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests;
