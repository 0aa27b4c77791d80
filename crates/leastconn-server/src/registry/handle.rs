//! The handle by which other tasks access an open connection.

use std::{
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use atomic_waker::AtomicWaker;
use leastconn::{
    ClientId, Server, UpstreamId,
    backoff::share,
    net::{self, Traffic},
};
use leastconn_proxy_protocol::Endpoints;
use leastconn_tls::client_chain::ClientChain;
use parking_lot::{Mutex, MutexGuard};

use super::peer::{DisplayAddress, UnixPeer};
use crate::{
    authorization::AuthInput,
    reason_code::ReasonCode,
    telemetry::metrics::{ClientMetrics, ListenerMetrics, Metrics},
};

#[derive(Debug)]
pub struct ConnectionHandle {
    /// Unique within the process.
    pub id: u64,
    pub listener: Arc<str>,
    /// When the socket was accepted.
    pub opened: Instant,
    /// The address that the socket was accepted from.
    peer: SocketAddr,
    /// Set for connections to a UNIX socket.
    unix: OnceLock<UnixPeer>,
    /// The addresses in the PROXY header. Boxed: most connections have none.
    proxied: OnceLock<Box<Endpoints>>,
    /// The server name in the ClientHello.
    sni: OnceLock<Box<str>>,
    /// The certificate chain that the client presented.
    chain: OnceLock<Arc<ClientChain>>,
    pub traffic: Traffic,
    state: Mutex<ConnectionState>,
    /// When `max_lifetime` is reached.
    lifetime_end: OnceLock<Instant>,
    /// Last valid second of the client's chain, as UNIX time; `i64::MAX` if expiry
    /// does not end the connection.
    chain_expiry: AtomicI64,
    metrics: Arc<ListenerMetrics>,
    /// Bytes of `traffic` that have already been added to the metrics: received, sent.
    metered: [AtomicU64; 2],
    stop: OnceLock<ReasonCode>,
    stopped: AtomicWaker,
}

/// The time limit that an open connection has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// `max_lifetime`.
    Lifetime,
    /// The validity of a certificate in the client's chain.
    Certificate,
}

/// The result of authorizing a connection and connecting it to a server. The lock of the state is
/// held during an authorization, so that no task sees a partly updated state.
#[derive(Debug, Default)]
pub struct ConnectionState {
    /// The identity under which the connection was admitted, and counts against limits.
    pub identity: Option<ClientId>,
    /// The identity of the last authorization, if a reload has changed it.
    changed_identity: Option<ClientId>,
    /// Metrics of the matching rule. The connection is counted there as open.
    client: Option<Arc<ClientMetrics>>,
    pub upstream: Option<UpstreamId>,
    /// The connected server.
    pub server: Option<Arc<Server>>,
    /// The generation of the snapshot that last authorized the connection.
    pub generation: Option<u64>,
    /// Last valid second of the client's chain, including the CA certificate, as UNIX time;
    /// `None` if no certificate was required.
    pub valid_until: Option<i64>,
}

impl ConnectionState {
    /// The identity of the last authorization. A new connection of the client has this identity, so
    /// it is the one to display, and the one that blocks and kills apply to.
    pub fn current_identity(&self) -> Option<&ClientId> {
        self.changed_identity.as_ref().or(self.identity.as_ref())
    }

    /// Sets the identity at admission.
    pub fn set_identity(&mut self, identity: ClientId) {
        self.identity = Some(identity);
        self.changed_identity = None;
    }

    /// Sets the identity of a later authorization.
    pub fn change_identity(&mut self, identity: &ClientId) {
        let is_changed = self.identity.as_ref() != Some(identity);
        self.changed_identity = is_changed.then(|| identity.clone());
    }

    /// The name of the matching rule.
    pub fn client(&self) -> Option<&Arc<str>> {
        self.client.as_ref().map(|client| client.name())
    }

    /// Sets the matching rule, and counts the connection as an open connection of that rule.
    pub fn set_client(&mut self, name: &str, metrics: &Metrics) {
        if self.client().is_some_and(|current| **current == *name) {
            return;
        }
        self.take_client();
        let client = metrics.client_or_new(name);
        client.opened();
        self.client = Some(client);
    }

    /// Removes the matching rule, and stops counting the connection as an open connection of that
    /// rule.
    pub fn take_client(&mut self) -> Option<Arc<ClientMetrics>> {
        let client = self.client.take()?;
        client.closed();
        Some(client)
    }
}

impl ConnectionHandle {
    pub(super) fn new(
        id: u64,
        listener: Arc<str>,
        metrics: Arc<ListenerMetrics>,
        peer: SocketAddr,
        opened: Instant,
    ) -> Self {
        Self {
            id,
            listener,
            opened,
            peer,
            unix: OnceLock::new(),
            proxied: OnceLock::new(),
            sni: OnceLock::new(),
            chain: OnceLock::new(),
            traffic: Traffic::default(),
            state: Mutex::default(),
            lifetime_end: OnceLock::new(),
            chain_expiry: AtomicI64::new(i64::MAX),
            metrics,
            metered: Default::default(),
            stop: OnceLock::new(),
            stopped: AtomicWaker::new(),
        }
    }

    /// Locks the state. Hold the lock only briefly, because reloads, the reaper and the API wait
    /// for it.
    pub fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock()
    }

    /// The input for the authorization of a new connection.
    pub fn auth_input(&self) -> AuthInput<'_> {
        AuthInput {
            listener: &self.listener,
            source: self.source_ip(),
            chain: self.chain.get().map(|chain| &**chain),
            sni: self.sni(),
            open: None,
        }
    }

    /// The client's address: from the PROXY header if there was one, otherwise the address of the
    /// peer.
    pub fn source(&self) -> SocketAddr {
        self.proxied().map_or(self.peer, |ends| ends.source)
    }

    /// The IP address of [`Self::source`]. An IPv4-mapped IPv6 address is returned as IPv4.
    pub fn source_ip(&self) -> IpAddr {
        self.source().ip().to_canonical()
    }

    /// The process at the other end of a UNIX socket.
    pub fn unix(&self) -> Option<&UnixPeer> {
        self.unix.get()
    }

    /// Marks the connection as accepted from a UNIX socket. Later calls have no effect.
    pub fn set_unix(&self, peer: UnixPeer) {
        let _ = self.unix.set(peer);
    }

    /// The addresses in the PROXY header.
    pub fn proxied(&self) -> Option<&Endpoints> {
        self.proxied.get().map(|ends| &**ends)
    }

    /// Sets the addresses from the PROXY header. Later calls have no effect.
    pub fn set_proxied(&self, ends: Endpoints) {
        let _ = self.proxied.set(Box::new(ends));
    }

    /// The address of the proxy that sent a PROXY header.
    pub fn proxy(&self) -> Option<SocketAddr> {
        self.proxied().map(|_| self.peer)
    }

    /// The client's address, for display.
    pub fn display_source(&self) -> DisplayAddress {
        match (self.proxied(), self.unix()) {
            (None, Some(peer)) => DisplayAddress::Unix(peer.to_string()),
            _ => DisplayAddress::tcp(self.source()),
        }
    }

    /// The proxy's address, for display.
    pub fn display_proxy(&self) -> Option<DisplayAddress> {
        let proxy = self.proxy()?;
        Some(match self.unix() {
            Some(peer) => DisplayAddress::Unix(peer.to_string()),
            None => DisplayAddress::tcp(proxy),
        })
    }

    /// The server name in the ClientHello.
    pub fn sni(&self) -> Option<&str> {
        self.sni.get().map(|sni| &**sni)
    }

    /// Sets the server name in the ClientHello. Later calls have no effect.
    pub fn set_sni(&self, sni: String) {
        let _ = self.sni.set(sni.into_boxed_str());
    }

    /// The certificate chain that the client presented.
    pub fn chain(&self) -> Option<&Arc<ClientChain>> {
        self.chain.get()
    }

    /// Sets the client's chain. Later calls have no effect.
    pub fn set_chain(&self, chain: Arc<ClientChain>) {
        let _ = self.chain.set(chain);
    }

    /// Sets the last valid second of the client's chain, as UNIX time; `None` if
    /// expiry does not end the connection.
    pub fn set_chain_expiry(&self, valid_until: Option<i64>) {
        self.chain_expiry
            .store(valid_until.unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Starts the `max_lifetime` of the connection. A random part of up to a tenth is subtracted,
    /// so that connections opened at the same time do not all reconnect at the same time.
    pub fn set_max_lifetime(&self, lifetime: Option<Duration>) {
        let Some(lifetime) = lifetime else {
            return;
        };
        let left = lifetime - share(lifetime / 10, net::random());
        // If the end is beyond the range of the clock, there is no limit.
        if let Some(end) = net::now().checked_add(left) {
            let _ = self.lifetime_end.set(end);
        }
    }

    /// The limit that is exceeded at the monotonic time `now` or the UNIX time `seconds`. `None` if
    /// the connection has already been ended.
    pub fn expired(&self, now: Instant, seconds: i64) -> Option<Expired> {
        if self.lifetime_end.get().is_some_and(|&end| end <= now) {
            return (!self.is_stopped()).then_some(Expired::Lifetime);
        }
        let expired = self.chain_expiry.load(Ordering::Relaxed) < seconds;
        (expired && !self.is_stopped()).then_some(Expired::Certificate)
    }

    #[cfg(test)]
    pub(super) fn lifetime_end(&self) -> Option<Instant> {
        self.lifetime_end.get().copied()
    }

    /// Adds to the metrics the bytes that were transferred since the last call.
    pub fn meter_traffic(&self) {
        let totals = [self.traffic.received(), self.traffic.sent()];
        let counters = [&self.metrics.received, &self.metrics.sent];
        for ((total, metered), counter) in totals.into_iter().zip(&self.metered).zip(counters) {
            // Use `fetch_max`: two calls may run concurrently, one of them with an older total, and
            // must not add any byte twice.
            let before = metered.fetch_max(total, Ordering::AcqRel);
            counter.inc_by(total.saturating_sub(before));
        }
    }

    /// Ends the connection. Returns false if it had already been ended.
    pub fn stop(&self, reason: ReasonCode) -> bool {
        let first = self.stop.set(reason).is_ok();
        if first {
            // Only the connection's own task waits.
            self.stopped.wake();
        }
        first
    }

    /// Marks the connection as ended by its own task, so that other tasks do not end it during a
    /// lingering close.
    pub fn finish(&self, reason: ReasonCode) {
        let _ = self.stop.set(reason);
    }

    /// Whether the connection has ended or is being ended by another task.
    pub fn is_stopped(&self) -> bool {
        self.stop.get().is_some()
    }

    /// Waits until another task ends the connection, and returns the reason.
    ///
    /// Only one task can wait at a time.
    pub async fn stopped(&self) -> ReasonCode {
        poll_fn(|cx| self.poll_stopped(cx)).await
    }

    fn poll_stopped(&self, cx: &Context<'_>) -> Poll<ReasonCode> {
        let reason = || self.stop.get().copied().map_or(Poll::Pending, Poll::Ready);
        // Check again after registering: `stop` may have been called between the two.
        if reason().is_pending() {
            self.stopped.register(cx.waker());
        }
        reason()
    }

    /// Runs `phase` unless another task ends the connection first. Large futures must be pinned by
    /// the caller, because arguments are moved.
    ///
    /// # Errors
    /// The reason code with which another task ended the connection.
    pub async fn unless_stopped<F: Future + Unpin>(
        &self,
        mut phase: F,
    ) -> Result<F::Output, ReasonCode> {
        poll_fn(|cx| match self.poll_stopped(cx) {
            Poll::Ready(reason) => Poll::Ready(Err(reason)),
            Poll::Pending => Pin::new(&mut phase).poll(cx).map(Ok),
        })
        .await
    }
}
