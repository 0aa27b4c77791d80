//! The account of one accepted socket, from accept to its end.
//!
//! It exists before anything else is done with a connection, and closes its
//! books when it is dropped, whichever way the connection's task ends: so every
//! accepted socket is in the log and in the metrics exactly once, with exactly
//! one reason.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use leastconn::{ClientId, Lease, Reason, UpstreamId, net};
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use crate::{
    access_log::AccessLog,
    live::{Live, Registered},
    metrics::{ListenerMetrics, Metrics},
    tls::{Clues, Presented},
};

/// What a connection's end is written to.
#[derive(Clone, Debug)]
pub struct Books {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Lines.
    pub log: AccessLog,
}

/// The account of one accepted socket.
#[derive(Debug)]
pub struct Record {
    books: Books,
    listener: Arc<ListenerMetrics>,
    live: Registered,
    time: Timestamp,
    start: Instant,
    client: Option<Arc<str>>,
    client_active: Option<Gauge>,
    identity: Option<ClientId>,
    serial: Option<String>,
    sni: Option<String>,
    tls: Option<(&'static str, &'static str)>,
    resumed: bool,
    /// Of a handshake that failed.
    clues: Option<Box<Clues>>,
    upstream: Option<UpstreamId>,
    server: Option<leastconn::ServerId>,
    attempts: Option<u32>,
    handshake: Option<Duration>,
    connect: Option<Duration>,
    ended: bool,
}

/// One line of the access log. What is not known is left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    connection: u64,
    listener: &'a str,
    source: SocketAddr,
    /// The balancer in front, which said that `source` is the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resumed: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tls_offered: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<CertificateLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_sent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_received: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    bytes_received: u64,
    bytes_sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    duration_ms: f64,
    outcome: &'static str,
    /// What happened, in words, where the outcome alone leaves questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// A certificate that was refused: what it claims.
#[derive(Serialize)]
struct CertificateLine {
    subject: String,
    issuer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
}

impl From<&Presented> for CertificateLine {
    fn from(presented: &Presented) -> Self {
        Self {
            subject: escape(&presented.subject),
            issuer: escape(&presented.issuer),
            not_after: presented.not_after.map(|at| at.to_string()),
        }
    }
}

impl Record {
    /// Opens the account of a socket that was just accepted.
    pub fn open(
        books: Books,
        listener: Arc<ListenerMetrics>,
        live: Registered,
        start: Instant,
    ) -> Self {
        listener.active.inc();
        Self {
            books,
            listener,
            live,
            time: Timestamp::now(),
            start,
            client: None,
            client_active: None,
            identity: None,
            serial: None,
            sni: None,
            tls: None,
            resumed: false,
            clues: None,
            upstream: None,
            server: None,
            attempts: None,
            handshake: None,
            connect: None,
            ended: false,
        }
    }

    /// The connection among those that are open.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The name that the client asked for.
    pub fn server_name(&mut self, sni: Option<String>) {
        self.sni = sni;
    }

    /// TLS is established. `resumed`: by a session of an earlier connection.
    pub fn handshake_done(&mut self, version: &'static str, cipher: &'static str, resumed: bool) {
        let took = net::now().saturating_duration_since(self.start);
        self.handshake = Some(took);
        self.tls = Some((version, cipher));
        self.resumed = resumed;
        self.books
            .metrics
            .handshake_seconds
            .observe(took.as_secs_f64());
    }

    /// TLS failed; this is what is known of whose it was.
    pub fn handshake_failed(&mut self, clues: Box<Clues>) {
        self.clues = Some(clues);
    }

    /// What the client calls itself.
    pub fn identified(&mut self, identity: ClientId, serial: Option<String>) {
        self.identity = Some(identity);
        self.serial = serial;
    }

    /// A rule matched.
    pub fn matched(&mut self, client: Arc<str>, identity: ClientId) {
        let active = self.books.metrics.client_active(&client);
        active.inc();
        self.client_active = Some(active);
        self.client = Some(client);
        self.identity = Some(identity);
    }

    /// The upstream is known.
    pub fn routed(&mut self, upstream: UpstreamId) {
        self.upstream = Some(upstream);
    }

    /// Connecting ended, one way or the other.
    pub fn connected(&mut self, server: Option<&Lease>, attempts: u32, took: Duration) {
        self.attempts = Some(attempts);
        if let Some(lease) = server {
            self.server = Some(lease.server().id().clone());
            self.connect = Some(took);
            self.books
                .metrics
                .connect_seconds
                .observe(took.as_secs_f64());
        }
    }

    /// The name that the client asked for, if it did.
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// Version and suite of its TLS, if it has any.
    pub fn tls(&self) -> Option<(&'static str, &'static str)> {
        self.tls
    }

    /// Whether that goes on with a session of an earlier connection.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The connection ended: closes the account. Only the first call counts.
    pub fn end(&mut self, reason: Reason, detail: Option<&str>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(active) = &self.client_active {
            active.dec();
        }
        self.live.ended(reason);
        self.live.meter_traffic();
        self.listener.ended(reason);
        if let Some(client) = &self.client {
            self.books.metrics.client_ended(client, reason);
        }
        if self.books.log.is_on() {
            let mut line = Vec::with_capacity(512);
            // A plain struct into memory: this does not fail.
            let _ = serde_json::to_writer(&mut line, &self.line(reason, detail));
            line.push(b'\n');
            self.books.log.write(&line);
        }
    }

    fn line(&self, reason: Reason, detail: Option<&str>) -> Line<'_> {
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let clues = self.clues.as_deref();
        let presented = clues.and_then(|clues| clues.presented.as_deref());
        Line {
            time: format!("{:.3}", self.time),
            connection: self.live.id,
            listener: &self.live.listener,
            source: canonical(self.live.source()),
            proxy: self.live.proxy().map(canonical),
            client: self.client.as_deref(),
            identity: self
                .identity
                .as_ref()
                .map(|identity| escape(identity.as_str())),
            serial: self
                .serial
                .as_deref()
                .or_else(|| presented.map(|presented| presented.serial.as_str())),
            sni: self.sni.as_deref(),
            tls_version: self
                .tls
                .map(|(version, _)| version)
                .or_else(|| clues.and_then(|clues| clues.version)),
            cipher: self.tls.map(|(_, cipher)| cipher),
            resumed: self.resumed,
            tls_offered: clues.map_or(&[], |clues| &clues.offered),
            certificate: presented.map(CertificateLine::from),
            alert_sent: clues.and_then(|clues| clues.alert_sent.as_deref()),
            alert_received: clues.and_then(|clues| clues.alert_received.as_deref()),
            upstream: self.upstream.as_ref().map(UpstreamId::as_str),
            server: self.server.as_ref().map(leastconn::ServerId::as_str),
            attempts: self.attempts,
            bytes_received: self.live.traffic.received(),
            bytes_sent: self.live.traffic.sent(),
            handshake_ms: self.handshake.map(milliseconds),
            connect_ms: self.connect.map(milliseconds),
            duration_ms: milliseconds(net::now().saturating_duration_since(self.start)),
            outcome: reason.as_str(),
            detail: detail.map(escape),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Usually ended before. If not, the task panicked, or the runtime is
        // being torn down with the connection still open.
        if std::thread::panicking() {
            self.end(Reason::Killed, Some("a fault in the balancer itself"));
        } else {
            self.end(Reason::Drained, None);
        }
    }
}

/// JSON escapes what would break its own syntax. What would break a terminal
/// or fool a reader (C1 controls, bidirectional overrides, line separators) is
/// replaced as well.
fn escape(text: &str) -> String {
    let fools = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if !text.chars().any(fools) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let escaped: Box<dyn Iterator<Item = char>> = if fools(c) {
                Box::new(c.escape_unicode())
            } else {
                Box::new(std::iter::once(c))
            };
            escaped
        })
        .collect()
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;
