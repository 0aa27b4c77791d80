//! What is known of a client whose handshake failed.

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

/// What is known of a client that was refused for what it has shown. What is not is
/// left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The version that both had agreed on.
    pub version: Option<&'static str>,
    /// If they had not come so far: those that the client offered.
    pub offered: Vec<&'static str>,
    /// If they had no application protocol (ALPN) in common: those that the client offered.
    pub protocols: Vec<String>,
    /// What came in place of a ClientHello.
    pub foreign_protocol: Option<ForeignProtocol>,
    /// The certificate that was refused.
    pub rejected: Option<Box<RejectedCertificate>>,
    /// What was wrong with the certificate, where that says more than the error.
    pub detail: Option<String>,
    /// The alert that told the client.
    pub alert_sent: Option<String>,
    /// The alert that the client ended it with.
    pub alert_received: Option<String>,
}

impl Diagnostics {
    /// Right behind the call into rustls that failed with `error`: before anything
    /// that waits.
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

    /// Of a client whose handshake was fine, and whose certificate is refused after it.
    pub fn of(certificate: &[u8]) -> Self {
        Self {
            rejected: RejectedCertificate::from_der(certificate).map(Box::new),
            ..Self::default()
        }
    }

    fn sent(&mut self, alert: AlertDescription) {
        self.alert_sent = Some(alert::name(alert));
    }

    /// What was sent to the client last, if that tells more: an alert that is not
    /// encrypted.
    pub(super) fn saw_sent(&mut self, bytes: &[u8]) {
        const LENGTH: usize = HEADER + 2;
        let last = bytes.len().checked_sub(LENGTH).map(|at| &bytes[at..]);
        if let Some(&[content::ALERT, 3, _, 0, 2, _, description]) = last
            && self.alert_sent.is_none()
        {
            self.sent(AlertDescription::from(description));
        }
    }

    /// The error text: what came in place of TLS, or the verifier's own, where there is one.
    fn explain(&self, error: &HandshakeError) -> String {
        match (&self.foreign_protocol, &self.detail) {
            (Some(protocol), _) => protocol.to_string(),
            (None, Some(detail)) => detail.clone(),
            (None, None) => format!("{}{error}", self.preface()),
        }
    }

    /// What explains an error better than its own words: rustls misses first what no
    /// older client has.
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

    /// The ClientHello, for when no version was agreed on.
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

/// A handshake that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .diagnostics.explain(.error))]
pub struct Failed {
    /// Why.
    pub error: HandshakeError,
    /// Whose it was.
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
