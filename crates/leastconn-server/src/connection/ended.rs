//! Why a connection ended, for its access record.

use std::{io, num::NonZeroU32};

use leastconn::{
    Reason,
    net::{ConnectError, Departed, RelayOutcome},
};
use leastconn_tls::{
    Diagnostics, Failed, certificate::Ambiguous, foreign_protocol::ForeignProtocol,
};

use super::proxy_header::ReceiveError;
use crate::{
    authorization::Refusal, fleet::clients::ClientRefusal, policy::Denied, reason_code::ReasonCode,
    registry::ConnectionHandle, starttls::StartTlsError,
};

/// The end of a connection before any data was relayed.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) reason: ReasonCode,
    pub(super) detail: Option<String>,
    /// TLS and certificate details, if the handshake failed or the certificate is ambiguous.
    pub(super) diagnostics: Option<Box<Diagnostics>>,
}

impl Ended {
    pub(super) fn new(reason: ReasonCode, detail: String) -> Self {
        Self {
            reason,
            detail: Some(detail),
            diagnostics: None,
        }
    }

    /// A client whose certificate is ambiguous.
    pub(super) fn ambiguous(error: Ambiguous, leaf: Option<impl AsRef<[u8]>>) -> Self {
        let leaf = leaf.as_ref().map_or(&[][..], |leaf| leaf.as_ref());
        Self {
            diagnostics: Some(Box::new(Diagnostics::of(leaf))),
            ..Self::new(ReasonCode::AmbiguousIdentity, error.to_string())
        }
    }

    /// A client that was refused by authorization.
    pub(super) fn refused(refusal: &Refusal, connection: &ConnectionHandle) -> Self {
        let is_ambiguous = matches!(refusal, Refusal::Denied(Denied::Ambiguous(_)));
        let chain = connection.chain().filter(|_| is_ambiguous);
        Self {
            diagnostics: chain.map(|chain| Box::new(Diagnostics::of(chain.leaf()))),
            ..Self::new(refusal.reason(), refusal.to_string())
        }
    }

    /// A client that was refused by its limits. Adds the number to a refusal by `max_conns`.
    pub(super) fn client_limit(refusal: &ClientRefusal, max_conns: Option<NonZeroU32>) -> Self {
        let reason: ReasonCode = refusal.reason().into();
        let max_conns = max_conns.filter(|_| reason == ReasonCode::TooManyConnections);
        let number = max_conns.map_or_else(String::new, |max| format!(" ({max})"));
        Self::new(reason, format!("{refusal}{number}"))
    }

    /// Explains a handshake timeout if the client has sent only part of its ClientHello. `received`
    /// contains the bytes that the client has sent.
    pub(super) fn after_partial_hello(mut self, received: &[u8]) -> Self {
        if self.reason == ReasonCode::HandshakeTimeout {
            self.detail = Some(match ForeignProtocol::unless_tls(received) {
                Some(instead) => instead.to_string(),
                None => format!(
                    "handshake timeout in the middle of the ClientHello, after {} bytes",
                    received.len()
                ),
            });
        }
        self
    }
}

impl From<ReasonCode> for Ended {
    fn from(reason: ReasonCode) -> Self {
        Self {
            reason,
            detail: None,
            diagnostics: None,
        }
    }
}

macro_rules! ended_from {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Ended {
            fn from(error: $error) -> Self {
                Self::new(error.reason().into(), error.to_string())
            }
        }
    )+};
}

ended_from!(StartTlsError, ReceiveError, ConnectError, Departed,);

impl From<Box<Failed>> for Ended {
    fn from(failed: Box<Failed>) -> Self {
        let detail = failed.to_string();
        let Failed { error, diagnostics } = *failed;
        Self {
            diagnostics: (diagnostics != Diagnostics::default()).then(|| Box::new(diagnostics)),
            ..Self::new(error.kind().into(), detail)
        }
    }
}

/// The access log detail for a connection that another task ended while it was relaying.
pub(super) fn stop_detail(reason: ReasonCode) -> Option<String> {
    let text =
        "the memory limit is reached (`memory_limit`), and this connection buffered a lot of data";
    (reason == ReasonCode::Overloaded).then(|| text.to_owned())
}

/// Returns the I/O or TLS error that ended a relayed connection, if it adds information to the
/// reason code.
pub(super) fn relay_detail(outcome: &RelayOutcome) -> Option<String> {
    let tells_more = |error: &&io::Error| {
        error.get_ref().is_some()
            || !matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
    };
    let client = outcome.client_error.as_ref().filter(tells_more);
    let server = outcome.server_error.as_ref().filter(tells_more);
    match outcome.reason {
        Reason::ClientReset | Reason::ClientTruncated => client.map(ToString::to_string),
        Reason::ServerReset | Reason::ServerTruncated => server.map(ToString::to_string),
        Reason::ProtocolError | Reason::HalfCloseTimeout => {
            let client = client.map(|error| format!("client: {error}"));
            client.or_else(|| server.map(|error| format!("server: {error}")))
        }
        _ => None,
    }
}
