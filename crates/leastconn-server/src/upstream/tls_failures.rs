//! Logs TLS failures and recoveries of servers: each failure once, not for every connection.

use std::{
    collections::HashMap,
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use leastconn::{ServerId, UpstreamId};
use parking_lot::Mutex;

/// A server, and the port of a connection to it, because its health check port may have another
/// certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) server: ServerId,
    pub(super) port: u16,
}

/// The phase in which TLS failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Handshake,
    /// After the handshake: a TLS 1.3 server verifies the client certificate only after the client
    /// has completed the handshake. Data from the server shows that the client certificate was
    /// accepted.
    AfterHandshake,
}

/// The last logged failure of each endpoint of an upstream.
#[derive(Debug)]
pub(super) struct TlsFailures {
    upstream: UpstreamId,
    /// The size of `logged`. It is almost always 0, so working connections take no lock.
    count: AtomicUsize,
    logged: Mutex<HashMap<Endpoint, (Phase, String)>>,
}

impl TlsFailures {
    pub(super) fn new(upstream: UpstreamId) -> Self {
        Self {
            upstream,
            count: AtomicUsize::new(0),
            logged: Mutex::default(),
        }
    }

    /// Logs a TLS failure, unless it is the same as the last one logged for the endpoint. Ignores
    /// other errors, which the caller counts and logs.
    pub(super) fn log_failure(&self, endpoint: &Endpoint, phase: Phase, error: &io::Error) {
        if leastconn_tls::client::is_failure(error)
            && self.record(endpoint, phase, error.to_string())
        {
            let Endpoint { server, port } = endpoint;
            tracing::warn!(upstream = %self.upstream, %server, port, %error, "server TLS failed");
        }
    }

    /// Logs that TLS has succeeded up to and including `phase`, if a failure was logged before.
    pub(super) fn log_success(&self, endpoint: &Endpoint, phase: Phase) {
        if self.clear(endpoint, phase) {
            let Endpoint { server, port } = endpoint;
            tracing::info!(upstream = %self.upstream, %server, port, "server TLS recovered");
        }
    }

    /// Records a failure. Returns whether it differs from the last recorded failure.
    fn record(&self, endpoint: &Endpoint, phase: Phase, error: String) -> bool {
        let mut logged = self.logged.lock();
        let failure = (phase, error);
        if logged.get(endpoint) == Some(&failure) {
            return false;
        }
        logged.insert(endpoint.clone(), failure);
        self.count.store(logged.len(), Ordering::Relaxed);
        true
    }

    /// Removes a recorded failure if TLS has now succeeded up to and including its phase. Returns
    /// whether there was a recorded failure.
    fn clear(&self, endpoint: &Endpoint, phase: Phase) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut logged = self.logged.lock();
        let is_over = logged
            .get(endpoint)
            .is_some_and(|(failed, _)| *failed <= phase);
        if is_over {
            logged.remove(endpoint);
            self.count.store(logged.len(), Ordering::Relaxed);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(server: &str) -> Endpoint {
        Endpoint {
            server: server.into(),
            port: 443,
        }
    }

    #[test]
    fn each_failure_is_logged_once() {
        let failures = TlsFailures::new("web".into());
        let record = |server: &str, error: &str| {
            failures.record(&endpoint(server), Phase::Handshake, error.to_owned())
        };
        assert!(!failures.clear(&endpoint("web1"), Phase::Handshake));
        assert!(record("web1", "expired"));
        assert!(!record("web1", "expired"));
        assert!(record("web2", "expired"));
        assert!(record("web1", "revoked"));
        assert!(failures.clear(&endpoint("web1"), Phase::Handshake));
        assert!(!failures.clear(&endpoint("web1"), Phase::Handshake));
        assert!(record("web1", "revoked"));
        assert!(failures.clear(&endpoint("web2"), Phase::AfterHandshake));
    }

    #[test]
    fn handshake_does_not_clear_a_later_failure() {
        let failures = TlsFailures::new("web".into());
        let web = endpoint("web1");
        assert!(failures.record(&web, Phase::AfterHandshake, "no".to_owned()));
        assert!(!failures.clear(&web, Phase::Handshake));
        assert!(!failures.record(&web, Phase::AfterHandshake, "no".to_owned()));
        assert!(failures.clear(&web, Phase::AfterHandshake));
    }
}
