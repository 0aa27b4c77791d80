//! The account of one accepted socket, from accept to its end.
//!
//! It exists before anything else is done with a connection, and closes its
//! books when it is dropped, whichever way the connection's task ends: so every
//! accepted socket is in the log and in the metrics exactly once, with exactly
//! one reason.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use leastconn::{Lease, Reason, ServerId, UpstreamId, net};
use serde::Serialize;

use crate::{
    client_chain::Presented,
    config::Prefixes,
    identity::Peer,
    judge::{self, Judged, Refused, Standing, judge},
    listener::Listener,
    policy::{Denied, Grant},
    registry::{Live, Registered, Shown},
    running::Running,
    shadow::{self, Shadowed},
    telemetry::access_log::AccessLog,
    telemetry::metrics::{ListenerMetrics, Metrics},
    telemetry::refusals::{self, Refusal, Refusals, is_refusal},
    tls::{Claimed, Clues},
};

pub use crate::text::escape;

/// What a connection's end is written to.
#[derive(Clone, Debug)]
pub struct Books {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Lines.
    pub log: AccessLog,
    /// The last refusals.
    pub refusals: Arc<Refusals>,
}

/// The account of one accepted socket.
#[derive(Debug)]
pub struct Record {
    books: Books,
    listener: Arc<ListenerMetrics>,
    live: Registered,
    time: Timestamp,
    start: Instant,
    tls: Option<(&'static str, &'static str)>,
    resumed: bool,
    /// The application protocol, one of those that are configured.
    alpn: Option<Box<str>>,
    /// Of a handshake that failed, or a certificate that is ambiguous.
    clues: Option<Box<Clues>>,
    attempts: Option<u32>,
    handshake: Option<Duration>,
    connect: Option<Duration>,
    shadow: Option<Box<Shadowed>>,
    ended: bool,
}

/// One line of the access log. What is not known is left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    connection: u64,
    listener: &'a str,
    source: Shown,
    /// The balancer in front, which said that `source` is the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resumed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<&'a str>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<ShadowLine<'a>>,
    /// What happened, in words, where the outcome alone leaves questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// What a rule in shadow mode would have decided.
#[derive(Serialize)]
struct ShadowLine<'a> {
    client: &'a str,
    outcome: &'static str,
}

/// A certificate that was refused: what it claims.
#[derive(Serialize)]
struct CertificateLine {
    subject: String,
    issuer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
}

impl From<&Claimed> for CertificateLine {
    fn from(presented: &Claimed) -> Self {
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
            tls: None,
            resumed: false,
            alpn: None,
            clues: None,
            attempts: None,
            handshake: None,
            connect: None,
            shadow: None,
            ended: false,
        }
    }

    /// The connection among those that are open.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The name that the client asked for.
    pub fn server_name(&mut self, sni: Option<String>) {
        self.live.known().seen.sni = sni.map(String::into_boxed_str);
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

    /// TLS failed, or its certificate is ambiguous; this is what is known of whose it was.
    pub fn refused(&mut self, clues: Box<Clues>) {
        self.clues = Some(clues);
    }

    /// What the client calls itself, and what it has shown to prove it.
    pub fn identified(&mut self, presented: Option<Arc<Presented>>, prefixes: Prefixes) {
        let mut known = self.live.known();
        let peer = Peer {
            source: known.seen.source,
            prefixes,
            certificate: presented
                .as_ref()
                .map(|shown| Arc::clone(&shown.certificate)),
        };
        known.identity = Some(peer.identity());
        known.seen.presented = presented;
    }

    /// Judges a client that connects, and writes down what came of it. `again`: under
    /// newer rules than the first time.
    ///
    /// # Errors
    /// If it is nobody, or may reach nothing.
    pub fn judged(&mut self, listener: &Listener, again: bool) -> Result<Grant, Refused> {
        let mut known = self.live.known();
        // With the lock: who looks for what has run out by now finds it unjudged, and
        // leaves it to this.
        let now = Timestamp::now();
        // Once: with newer rules it is still the same connection, which counts as one.
        if !again {
            self.shadow = shadow::judge(listener, &known.seen, now);
            if let Some(shadow) = &self.shadow {
                let metrics = &self.books.metrics;
                metrics.client_shadowed(&shadow.client, shadow.outcome);
            }
        }
        let judged = judge(listener, &known.seen, Standing::New, now);
        if let Err(Refused::Denied(Denied::Ambiguous(_))) = &judged
            && let Some(leaf) = known
                .seen
                .presented
                .as_ref()
                .and_then(|p| p.chain().first())
        {
            self.clues = Some(Box::new(Clues::of(leaf)));
        }
        let Judged {
            matched,
            grant,
            valid_until,
        } = judged?;
        known.called(matched.client(), &self.books.metrics);
        known.identity = Some(matched.identity().clone());
        let grant = grant?;
        known.upstream = Some(grant.upstream().pool().id().clone());
        // From here on, a reload judges it.
        known.epoch = Some(listener.state.epoch);
        known.valid_until = valid_until;
        self.live.expires(listener, valid_until);
        Ok(grant)
    }

    /// Judges the client again, now that it is known where its connection leads.
    ///
    /// # Errors
    /// With the reason for which it has to end.
    pub fn judged_again(&self, running: &Running) -> Result<(), Reason> {
        let current = running.current();
        let now = Timestamp::now();
        judge::again(&self.live, &current, &self.books.metrics, now).map_or(Ok(()), Err)
    }

    /// Connecting ended, one way or the other.
    pub fn connected(&mut self, server: Option<&Lease>, attempts: u32, took: Duration) {
        self.attempts = Some(attempts);
        if let Some(lease) = server {
            self.live.known().server = Some(lease.server().id().clone());
            self.connect = Some(took);
            self.books
                .metrics
                .connect_seconds
                .observe(took.as_secs_f64());
        }
    }

    /// Version and suite of its TLS, if it has any.
    pub fn tls(&self) -> Option<(&'static str, &'static str)> {
        self.tls
    }

    /// Stores the application protocol that was agreed on.
    pub fn set_alpn(&mut self, alpn: Option<&str>) {
        self.alpn = alpn.map(Box::from);
    }

    /// The application protocol that was agreed on.
    pub fn alpn(&self) -> Option<&str> {
        self.alpn.as_deref()
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
        self.live.ended(reason);
        let (client, is_identified, is_served) = {
            let mut known = self.live.known();
            let client = known.uncounted();
            (client, known.identity.is_some(), known.server.is_some())
        };
        self.live.meter_traffic();
        self.listener.ended(reason);
        let is_refused = is_refusal(reason) && !is_served;
        if let Some(client) = &client {
            client.count_end(reason, is_refused);
        }
        let client = client.as_ref().map(|client| client.name());
        if let Some(shadow) = &mut self.shadow {
            shadow.ended();
        }
        if is_refused {
            let refusal = self.refusal(client.map(|name| &**name), reason, detail);
            self.books.refusals.push(refusal);
        }
        if self.books.log.takes(is_identified) {
            let mut line = Vec::with_capacity(512);
            self.write_line(&mut line, client.map(|name| &**name), reason, detail);
            line.push(b'\n');
            self.books.log.write(line);
        }
    }

    fn refusal(&self, client: Option<&str>, reason: Reason, detail: Option<&str>) -> Refusal {
        let text = |text: &str| refusals::bounded(&escape(text));
        let known = self.live.known();
        let presented = known.seen.presented.as_ref();
        let certificate = presented.map(|presented| &presented.certificate);
        let clues = self.clues.as_deref();
        let claimed = clues.and_then(|clues| clues.claimed.as_deref());
        let names = certificate.into_iter().flat_map(|certificate| {
            let cn = certificate.cn.iter().map(|name| ("cn", name));
            let dns = certificate.dns.iter().map(|name| ("dns", name));
            let uri = certificate.uri.iter().map(|name| ("uri", name));
            cn.chain(dns).chain(uri)
        });
        Refusal {
            connection: self.live.id,
            time: format!("{:.3}", self.time),
            listener: self.live.listener.to_string(),
            source: self.live.shown_source().to_string(),
            proxy: self.live.shown_proxy().map(|proxy| proxy.to_string()),
            client: client.map(str::to_owned),
            identity: known
                .identity
                .as_ref()
                .map(|identity| text(identity.as_str())),
            names: names
                .take(refusals::MAX_NAMES)
                .map(|(kind, name)| text(&format!("{kind}:{name}")))
                .collect(),
            subject: claimed.map(|claimed| text(&claimed.subject)),
            issuer: claimed.map(|claimed| text(&claimed.issuer)),
            serial: certificate
                .map(|certificate| text(&certificate.serial))
                .or_else(|| claimed.map(|claimed| text(&claimed.serial))),
            sni: known.seen.sni.as_deref().map(text),
            outcome: reason.as_str().to_owned(),
            detail: detail.map(text),
        }
    }

    fn write_line(
        &self,
        to: &mut Vec<u8>,
        client: Option<&str>,
        reason: Reason,
        detail: Option<&str>,
    ) {
        let known = self.live.known();
        let presented = known.seen.presented.as_ref();
        let clues = self.clues.as_deref();
        let claimed = clues.and_then(|clues| clues.claimed.as_deref());
        let line = Line {
            time: format!("{:.3}", self.time),
            connection: self.live.id,
            listener: &self.live.listener,
            source: self.live.shown_source(),
            proxy: self.live.shown_proxy(),
            client,
            identity: known
                .identity
                .as_ref()
                .map(|identity| escape(identity.as_str())),
            serial: presented
                .map(|shown| shown.certificate.serial.as_str())
                .or_else(|| claimed.map(|claimed| claimed.serial.as_str()))
                .map(escape),
            sni: known.seen.sni.as_deref(),
            tls_version: self
                .tls
                .map(|(version, _)| version)
                .or_else(|| clues.and_then(|clues| clues.version)),
            cipher: self.tls.map(|(_, cipher)| cipher),
            resumed: self.resumed,
            alpn: self.alpn.as_deref(),
            tls_offered: clues.map_or(&[], |clues| &clues.offered),
            certificate: claimed.map(CertificateLine::from),
            alert_sent: clues.and_then(|clues| clues.alert_sent.as_deref()),
            alert_received: clues.and_then(|clues| clues.alert_received.as_deref()),
            upstream: known.upstream.as_ref().map(UpstreamId::as_str),
            server: known.server.as_ref().map(ServerId::as_str),
            attempts: self.attempts,
            bytes_received: self.live.traffic.received(),
            bytes_sent: self.live.traffic.sent(),
            handshake_ms: self.handshake.map(milliseconds),
            connect_ms: self.connect.map(milliseconds),
            duration_ms: milliseconds(net::now().saturating_duration_since(self.start)),
            outcome: reason.as_str(),
            shadow: self.shadow.as_deref().map(|shadow| ShadowLine {
                client: &shadow.client,
                outcome: shadow.outcome.as_str(),
            }),
            detail: detail.map(escape),
        };
        // A plain struct into memory: this does not fail.
        let _ = serde_json::to_writer(to, &line);
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

/// To the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;
