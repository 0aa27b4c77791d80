//! The access record of one accepted socket.
//!
//! The record is opened right after accept and ends at the latest when it is dropped. So every
//! accepted socket is counted exactly once and has at most one line in the access log, with exactly
//! one reason code. The record makes no decisions about the connection.

#[cfg(any(test, fuzzing))]
pub(crate) mod drive;
mod line;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use leastconn::{Lease, UpstreamId, net};
use leastconn_config::text::{MAX_FIELD, escape, escaped};
use leastconn_tls::Diagnostics;

use crate::{
    authorization::shadow::ShadowDecision,
    reason_code::ReasonCode,
    registry::{ConnectionGuard, ConnectionHandle, ConnectionState},
    telemetry::{
        Telemetry,
        access_log::{MAX_LINE, milliseconds},
        metrics::ListenerMetrics,
        refusals::{self, RecentRefusal},
    },
};
use line::{Line, RejectedCertificate, Shadow, time_text};

/// Maximum lengths in bytes of texts that clients determine, and of explanations that contain them.
/// The first one with which the line is not longer than [`MAX_LINE`] is used.
const LONGEST: [usize; 3] = [MAX_FIELD, 512, 128];

/// The access record of one accepted socket.
#[derive(Debug)]
pub struct AccessRecord {
    telemetry: Arc<Telemetry>,
    listener: Arc<ListenerMetrics>,
    connection: ConnectionGuard,
    time: Timestamp,
    accepted_at: Instant,
    /// Protocol version and cipher suite.
    tls: Option<(&'static str, &'static str)>,
    resumed: bool,
    /// The negotiated application protocol. It is one of the configured protocols.
    alpn: Option<Box<str>>,
    /// Set for a failed handshake or an ambiguous certificate.
    diagnostics: Option<Box<Diagnostics>>,
    attempts: Option<u32>,
    handshake: Option<Duration>,
    queued: Option<Duration>,
    connect: Option<Duration>,
    shadow: Option<Box<ShadowDecision>>,
    ended: bool,
}

impl AccessRecord {
    /// Opens the record of a socket that was just accepted.
    pub fn open(
        telemetry: Arc<Telemetry>,
        listener: Arc<ListenerMetrics>,
        connection: ConnectionGuard,
        accepted_at: Instant,
    ) -> Self {
        listener.active.inc();
        Self {
            telemetry,
            listener,
            connection,
            time: Timestamp::now(),
            accepted_at,
            tls: None,
            resumed: false,
            alpn: None,
            diagnostics: None,
            attempts: None,
            handshake: None,
            queued: None,
            connect: None,
            shadow: None,
            ended: false,
        }
    }

    pub fn connection(&self) -> &ConnectionHandle {
        &self.connection
    }

    /// When the socket was accepted.
    pub const fn accepted_at(&self) -> Instant {
        self.accepted_at
    }

    /// Records that the TLS handshake is complete. `resumed` is true if the handshake resumed a
    /// session.
    pub fn handshake_done(&mut self, version: &'static str, cipher: &'static str, resumed: bool) {
        let took = net::now().saturating_duration_since(self.accepted_at);
        self.handshake = Some(took);
        self.tls = Some((version, cipher));
        self.resumed = resumed;
        let histogram = &self.telemetry.metrics.handshake_seconds;
        histogram.observe(took);
    }

    /// Stores and counts the decision of a rule in shadow mode.
    pub fn set_shadow(&mut self, decision: Option<Box<ShadowDecision>>) {
        if let Some(shadow) = &decision {
            let metrics = &self.telemetry.metrics;
            metrics.client_shadowed(&shadow.client, shadow.outcome);
        }
        self.shadow = decision;
    }

    /// Records that a connection to a server was established on attempt number `attempts`.
    pub fn connected(&mut self, lease: &Lease, attempts: u32, took: Duration) {
        self.attempts = Some(attempts);
        self.connection.state().server = Some(Arc::clone(lease.server()));
        self.connect = Some(took);
        let histogram = &self.telemetry.metrics.connect_seconds;
        histogram.observe(took);
    }

    /// Records how long the connection waited in its upstream's queue. `None` means that it did not
    /// wait.
    pub fn set_queued(&mut self, queued: Option<Duration>) {
        if let Some(queued) = queued {
            let histogram = &self.telemetry.metrics.queue_seconds;
            histogram.observe(queued);
        }
        self.queued = queued;
    }

    /// Records that all `attempts` to connect to a server failed.
    pub const fn connect_failed(&mut self, attempts: u32) {
        self.attempts = Some(attempts);
    }

    /// Protocol version and cipher suite of the TLS connection.
    pub const fn tls(&self) -> Option<(&'static str, &'static str)> {
        self.tls
    }

    pub fn set_alpn(&mut self, alpn: Option<&str>) {
        self.alpn = alpn.map(Box::from);
    }

    pub fn alpn(&self) -> Option<&str> {
        self.alpn.as_deref()
    }

    /// Whether the handshake resumed a session.
    pub const fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Like [`Self::end`], for a connection that failed before any data was relayed.
    pub fn end_handshake(
        &mut self,
        reason: ReasonCode,
        detail: Option<&str>,
        diagnostics: Option<Box<Diagnostics>>,
    ) {
        self.diagnostics = diagnostics;
        self.end(reason, detail);
    }

    /// Records the end of the connection: counts it and writes its access log line. Later calls
    /// have no effect.
    pub fn end(&mut self, reason: ReasonCode, detail: Option<&str>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.connection.finish(reason);
        self.connection.meter_traffic();
        self.listener.ended(reason);
        if let Some(shadow) = &mut self.shadow {
            shadow.release();
        }
        let (refusal, line) = {
            let mut state = self.connection.state();
            let client = state.take_client();
            let is_refused = reason.is_refusal() && state.server.is_none();
            if let Some(client) = &client {
                client.count_end(reason, is_refused);
            }
            let client = client.as_ref().map(|client| &**client.name());
            let refusal = is_refused.then(|| self.refusal(&state, client, reason, detail));
            let is_logged = self.telemetry.access_log.accepts(state.identity.is_some());
            let line = is_logged.then(|| self.line_text(&state, client, reason, detail));
            (refusal, line)
        };
        if let Some(refusal) = refusal {
            self.telemetry.refusals.push(refusal);
        }
        if let Some(line) = line {
            self.telemetry.access_log.write(&line);
        }
    }

    fn refusal(
        &self,
        state: &ConnectionState,
        client: Option<&str>,
        reason: ReasonCode,
        detail: Option<&str>,
    ) -> RecentRefusal {
        let text = |text: &str| refusals::bounded(&escape(text));
        let connection = &self.connection;
        let certificate = connection.chain().map(|chain| &chain.certificate);
        let diagnostics = self.diagnostics.as_deref();
        let rejected = diagnostics.and_then(|diagnostics| diagnostics.rejected.as_deref());
        let names = certificate.into_iter().flat_map(|certificate| {
            let cn = certificate.cn.iter().map(|name| ("cn", name));
            let dns = certificate.dns.iter().map(|name| ("dns", name));
            let uri = certificate.uri.iter().map(|name| ("uri", name));
            cn.chain(dns).chain(uri)
        });
        RecentRefusal {
            connection: connection.id,
            time: format!("{:.3}", self.time),
            listener: connection.listener.to_string(),
            source: connection.display_source().to_string(),
            proxy: connection.display_proxy().map(|proxy| proxy.to_string()),
            client: client.map(str::to_owned),
            identity: state
                .current_identity()
                .map(|identity| text(identity.as_str())),
            names: names
                .take(refusals::MAX_NAMES)
                .map(|(kind, name)| text(&format!("{kind}:{name}")))
                .collect(),
            subject: rejected.map(|rejected| text(&rejected.subject)),
            issuer: rejected.map(|rejected| text(&rejected.issuer)),
            serial: certificate
                .map(|certificate| text(&certificate.serial))
                .or_else(|| rejected.map(|rejected| text(&rejected.serial))),
            sni: connection.sni().map(text),
            outcome: reason.as_str().to_owned(),
            detail: detail.map(text),
        }
    }

    /// The line, with texts that are as long as [`MAX_LINE`] permits.
    fn line_text(
        &self,
        state: &ConnectionState,
        client: Option<&str>,
        reason: ReasonCode,
        detail: Option<&str>,
    ) -> Vec<u8> {
        let mut text = Vec::new();
        for longest in LONGEST {
            text = self.line(state, client, reason, detail, longest).to_text();
            if text.len() <= MAX_LINE {
                break;
            }
        }
        text
    }

    /// `longest` is one of [`LONGEST`].
    fn line<'a>(
        &'a self,
        state: &'a ConnectionState,
        client: Option<&'a str>,
        reason: ReasonCode,
        detail: Option<&'a str>,
        longest: usize,
    ) -> Line<'a> {
        let connection = &self.connection;
        let diagnostics = self.diagnostics.as_deref();
        let rejected = diagnostics.and_then(|diagnostics| diagnostics.rejected.as_deref());
        Line {
            time: time_text(self.time),
            connection: connection.id,
            listener: &connection.listener,
            source: connection.display_source(),
            proxy: connection.display_proxy(),
            client,
            identity: state
                .current_identity()
                .map(|identity| escaped(identity.as_str(), longest)),
            serial: connection
                .chain()
                .map(|chain| chain.certificate.serial.as_str())
                .or_else(|| rejected.map(|rejected| rejected.serial.as_str()))
                .map(|serial| escaped(serial, longest)),
            sni: connection.sni(),
            tls_version: self
                .tls
                .map(|(version, _)| version)
                .or_else(|| diagnostics.and_then(|diagnostics| diagnostics.version)),
            cipher: self.tls.map(|(_, cipher)| cipher),
            resumed: self.resumed,
            alpn: self.alpn.as_deref(),
            tls_offered: diagnostics.map_or(&[], |diagnostics| &diagnostics.offered),
            certificate: rejected.map(|rejected| RejectedCertificate::new(rejected, longest)),
            alert_sent: diagnostics.and_then(|diagnostics| diagnostics.alert_sent.as_deref()),
            alert_received: diagnostics
                .and_then(|diagnostics| diagnostics.alert_received.as_deref()),
            upstream: state.upstream.as_ref().map(UpstreamId::as_str),
            server: state.server.as_ref().map(|server| server.id().as_str()),
            attempts: self.attempts,
            bytes_received: connection.traffic.received(),
            bytes_sent: connection.traffic.sent(),
            handshake_ms: self.handshake.map(milliseconds),
            queue_ms: self.queued.map(milliseconds),
            connect_ms: self.connect.map(milliseconds),
            duration_ms: milliseconds(net::now().saturating_duration_since(self.accepted_at)),
            outcome: reason.as_str(),
            shadow: self.shadow.as_deref().map(|shadow| Shadow {
                client: &shadow.client,
                outcome: shadow.outcome.as_str(),
            }),
            detail: detail.map(|detail| escaped(detail, longest)),
        }
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        // Usually `end` has been called before. Otherwise the task has panicked, or the runtime was
        // shut down while the connection was open.
        if std::thread::panicking() {
            self.end(ReasonCode::Killed, Some("internal error, please report it"));
        } else {
            self.end(ReasonCode::Drained, None);
        }
    }
}

#[cfg(test)]
mod tests;
