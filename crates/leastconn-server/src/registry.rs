//! The connections that are open now: to be listed, counted and ended.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use leastconn::{
    ClientId, Reason, ServerId, UpstreamId,
    backoff::share,
    net::{self, Traffic},
};
use leastconn_proxy_protocol::Endpoints;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::{
    client_chain::Fingerprint,
    config::OnExpiry,
    listener::Listener,
    seen::Seen,
    telemetry::metrics::{ClientMetrics, ListenerMetrics, Metrics},
};

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
    /// When it was accepted.
    pub opened: Instant,
    /// Where the connection came from.
    peer: SocketAddr,
    /// The process that it came from, if that was by a UNIX socket.
    unix: OnceLock<UnixPeer>,
    /// Whose it is, if a PROXY header said so. Boxed: most have none.
    announced: OnceLock<Box<Endpoints>>,
    /// What it has carried so far.
    pub traffic: Traffic,
    known: Mutex<Known>,
    /// When it is too old.
    ends: OnceLock<Instant>,
    /// The last second of what it has shown, in seconds since 1970.
    expires: AtomicI64,
    metrics: Arc<ListenerMetrics>,
    /// How much of `traffic` is in the metrics: received, sent.
    metered: [AtomicU64; 2],
    stop: OnceLock<Reason>,
    stopped: Notify,
}

/// A process at the other end of a UNIX socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixPeer {
    /// Its ID, where that can be told.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: u32,
}

impl UnixPeer {
    /// What it counts as for rules by `source`, and for limits of sources.
    pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
}

impl fmt::Display for UnixPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "unix:pid={pid},uid={}", self.uid),
            None => write!(f, "unix:uid={}", self.uid),
        }
    }
}

/// The far end of a connection, for the log and the API.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Shown {
    /// By an address.
    Address(SocketAddr),
    /// By a UNIX socket.
    Unix(String),
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(text) => f.write_str(text),
        }
    }
}

/// An IPv4 address as such, also where it came to an IPv6 socket.
const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What time has done to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It is too old.
    Age,
    /// A certificate that it has shown has run out.
    Certificate,
}

/// What is known of a connection so far: by what it is judged, and what for.
#[derive(Debug)]
pub struct Known {
    /// By what it is judged.
    pub seen: Seen,
    /// Who it is.
    pub identity: Option<ClientId>,
    /// The metrics of the rule that matches.
    client: Option<Arc<ClientMetrics>>,
    /// Where it goes.
    pub upstream: Option<UpstreamId>,
    /// The server that it was connected to.
    pub server: Option<ServerId>,
    /// The configuration that it was admitted under, or judged under since.
    pub epoch: Option<u64>,
    /// The last second in which its chain is valid, the authority's certificate included,
    /// since 1970; `None`: it needs no certificate.
    pub valid_until: Option<i64>,
}

impl Known {
    /// The name of its rule.
    pub fn client(&self) -> Option<&Arc<str>> {
        self.client.as_ref().map(|client| client.name())
    }

    /// Sets its rule, and counts it as an open connection of that rule.
    pub fn called(&mut self, name: &str, metrics: &Metrics) {
        if self.client().is_some_and(|known| **known == *name) {
            return;
        }
        self.uncounted();
        let client = metrics.client_or_new(name);
        client.opened();
        self.client = Some(client);
    }

    /// Counts it as open no longer. Returns the metrics of its rule.
    pub fn uncounted(&mut self) -> Option<Arc<ClientMetrics>> {
        let client = self.client.take()?;
        client.closed();
        Some(client)
    }

    /// The chain it was admitted with, if it was.
    pub fn admitted_with(&self) -> Option<Fingerprint> {
        let presented = self.seen.presented.as_ref()?;
        self.epoch.map(|_| *presented.fingerprint())
    }
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
        opened: Instant,
    ) -> Registered {
        let live = Arc::new(Live {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            listener,
            opened,
            peer,
            unix: OnceLock::new(),
            announced: OnceLock::new(),
            traffic: Traffic::default(),
            known: Mutex::new(Known {
                seen: Seen {
                    source: peer.ip().to_canonical(),
                    presented: None,
                    sni: None,
                },
                identity: None,
                client: None,
                upstream: None,
                server: None,
                epoch: None,
                valid_until: None,
            }),
            ends: OnceLock::new(),
            expires: AtomicI64::new(i64::MAX),
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
                let shard = shard.lock();
                shard.values().cloned().collect::<Vec<_>>()
            })
            .collect()
    }

    /// Looks at each of those that are open now, and keeps others from coming and
    /// going for so long.
    pub fn each(&self, mut look: impl FnMut(&Arc<Live>)) {
        for shard in &self.shards {
            let shard = shard.lock();
            shard.values().for_each(&mut look);
        }
    }

    /// Ends all for this reason, and returns how many that concerned.
    pub fn stop_all(&self, reason: Reason) -> usize {
        let live = self.list();
        live.iter().filter(|live| live.stop(reason)).count()
    }

    /// Brings what open connections have carried so far into the metrics.
    pub fn meter_traffic(&self) {
        self.each(|live| live.meter_traffic());
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
        with(&mut shard.lock())
    }
}

impl Live {
    /// What is known of it. Others look at it as well: not for long.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        // Each change of it is one step.
        self.known.lock()
    }

    /// Sets when its chain expires, as far as that matters to `listener`.
    pub fn expires(&self, listener: &Listener, valid_until: Option<i64>) {
        let end = match listener.on_expiry {
            OnExpiry::Close => valid_until,
            OnExpiry::Keep => None,
        };
        self.expires
            .store(end.unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Ends it when it is as old as that, or up to a tenth younger: connections that
    /// came together should not all come back together.
    pub fn lives_for(&self, lifetime: Option<Duration>) {
        let Some(lifetime) = lifetime else {
            return;
        };
        let left = lifetime - share(lifetime / 10, net::random());
        // Longer than the clock goes is for ever.
        if let Some(end) = net::now().checked_add(left) {
            let _ = self.ends.set(end);
        }
    }

    /// Whether it is too old at `now`, or what it has shown has run out at `seconds`
    /// since 1970, and nothing has ended it yet.
    pub fn due(&self, now: Instant, seconds: i64) -> Option<Due> {
        if self.ends.get().is_some_and(|&end| end <= now) {
            return (!self.has_ended()).then_some(Due::Age);
        }
        let expired = self.expires.load(Ordering::Relaxed) < seconds;
        (expired && !self.has_ended()).then_some(Due::Certificate)
    }

    /// Whether it has ended, or was told to.
    pub fn has_ended(&self) -> bool {
        self.stop.get().is_some()
    }

    /// The client's address: the one that a PROXY header announced, else that of
    /// whoever connected.
    pub fn source(&self) -> SocketAddr {
        self.announced().map_or(self.peer, |ends| ends.source)
    }

    /// It came from this process of the machine. Only the first call counts.
    pub fn came_from(&self, peer: UnixPeer) {
        let _ = self.unix.set(peer);
    }

    /// The process that it came from, if that was by a UNIX socket.
    pub fn unix(&self) -> Option<&UnixPeer> {
        self.unix.get()
    }

    /// The client, for people.
    pub fn shown_source(&self) -> Shown {
        match (self.announced(), self.unix()) {
            (None, Some(peer)) => Shown::Unix(peer.to_string()),
            _ => Shown::Address(canonical(self.source())),
        }
    }

    /// The balancer that announced the client, for people.
    pub fn shown_proxy(&self) -> Option<Shown> {
        let proxy = self.proxy()?;
        Some(match self.unix() {
            Some(peer) => Shown::Unix(peer.to_string()),
            None => Shown::Address(canonical(proxy)),
        })
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
        if self.announced.set(Box::new(ends)).is_ok() {
            self.known().seen.source = ends.source.ip().to_canonical();
        }
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
