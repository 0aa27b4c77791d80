//! Diagnostics of failed handshakes.

use rustls::{AlertDescription, CommonState, Error};

use super::{
    alert,
    handshake_error::HandshakeError,
    negotiated::version_name,
    offer::Offer,
    record::{HEADER, content},
    rejected::{self, RejectedCertificate},
};
use crate::foreign_protocol::ForeignProtocol;

/// Data about a client whose handshake failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    pub version: Option<&'static str>,
    /// The versions that the client offered, if none was negotiated.
    pub offered: Vec<&'static str>,
    /// The application protocols that the client offered, if the server does not support any
    /// of these protocols.
    pub protocols: Vec<String>,
    /// What was received instead of a ClientHello.
    pub foreign_protocol: Option<ForeignProtocol>,
    pub rejected: Option<Box<RejectedCertificate>>,
    /// Details of the certificate error, which rustls' error does not contain.
    pub detail: Option<String>,
    pub alert_sent: Option<String>,
    pub alert_received: Option<String>,
}

impl Diagnostics {
    /// Collects data about a handshake in which rustls returned `error`. Call this function inside
    /// the handshake future: it takes the rejected certificate from the task-local slot.
    pub(super) fn gather(error: &Error, session: Option<&CommonState>) -> Self {
        let mut diagnostics = Self {
            version: session
                .and_then(CommonState::protocol_version)
                .map(version_name),
            ..Self::default()
        };
        match error {
            Error::InvalidCertificate(why) => {
                if let Some(rejected) = rejected::take() {
                    diagnostics.rejected = rejected.certificate;
                    diagnostics.detail = rejected.detail;
                }
                diagnostics.sent(AlertDescription::from(why.clone()));
            }
            Error::NoCertificatesPresented => {
                diagnostics.sent(AlertDescription::CertificateRequired)
            }
            Error::DecryptError => diagnostics.sent(AlertDescription::DecryptError),
            Error::NoApplicationProtocol => {
                diagnostics.sent(AlertDescription::NoApplicationProtocol)
            }
            Error::AlertReceived(alert) => diagnostics.alert_received = Some(alert::name(*alert)),
            _ => {}
        }
        diagnostics
    }

    /// Diagnostics for a certificate that is refused after the handshake.
    pub fn of(certificate: &[u8]) -> Self {
        Self {
            rejected: RejectedCertificate::from_der(certificate).map(Box::new),
            ..Self::default()
        }
    }

    fn sent(&mut self, alert: AlertDescription) {
        self.alert_sent = Some(alert::name(alert));
    }

    /// Records the alert, if the bytes sent to the client end with an unencrypted alert.
    pub(super) fn saw_sent(&mut self, bytes: &[u8]) {
        const LENGTH: usize = HEADER + 2;
        let last = bytes.len().checked_sub(LENGTH).map(|at| &bytes[at..]);
        if let Some(&[content::ALERT, 3, _, 0, 2, _, description]) = last
            && self.alert_sent.is_none()
        {
            self.sent(AlertDescription::from(description));
        }
    }

    /// The error text: the foreign protocol if one was recognized, otherwise the verifier's
    /// details if there are any, otherwise the text of the error.
    fn explain(&self, error: &HandshakeError) -> String {
        match (&self.foreign_protocol, &self.detail) {
            (Some(protocol), _) => protocol.to_string(),
            (None, Some(detail)) => detail.clone(),
            (None, None) => format!("{}{error}", self.preface()),
        }
    }

    /// A prefix for the error text that names the client's offer. For a client without TLS 1.2,
    /// rustls' error alone would be misleading: it names a missing extension.
    fn preface(&self) -> String {
        if !self.protocols.is_empty() {
            return format!("the client offers {}: ", self.protocols.join(", "));
        }
        match &self.offered[..] {
            [newest, ..] if !self.offered.iter().any(|v| matches!(*v, "1.3" | "1.2")) => {
                format!("the client offers TLS {newest} and nothing newer: ")
            }
            _ => String::new(),
        }
    }

    /// Records what the client offered, if the negotiation failed.
    pub(super) fn saw_hello(&mut self, bytes: &[u8], error: &Error) {
        let no_protocol = *error == Error::NoApplicationProtocol;
        if self.version.is_some() && !no_protocol {
            return;
        }
        let offer = Offer::parse(bytes).unwrap_or_default();
        if no_protocol {
            self.protocols = offer.protocols();
        } else {
            self.offered = offer.versions();
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{}", .diagnostics.explain(.error))]
pub struct Failed {
    pub error: HandshakeError,
    pub diagnostics: Diagnostics,
}

impl<E: Into<HandshakeError>> From<E> for Box<Failed> {
    fn from(error: E) -> Self {
        let error = error.into();
        let diagnostics = match &error {
            HandshakeError::Tls(error) => Diagnostics::gather(error, None),
            _ => Diagnostics::default(),
        };
        Self::new(Failed { error, diagnostics })
    }
}
