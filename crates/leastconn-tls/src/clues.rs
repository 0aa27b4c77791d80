//! What is known of a client whose handshake failed.

use rustls::{AlertDescription, CommonState, Error, ProtocolVersion};

use super::{
    HandshakeError,
    offer::Offer,
    record::{HEADER, content},
    rejected::{self, Claimed},
    words,
};
use crate::instead::Instead;

/// What is known of a client that was refused for what it has shown. What is not is
/// left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clues {
    /// The version that both had agreed on.
    pub version: Option<&'static str>,
    /// If they had not come so far: those that the client offered.
    pub offered: Vec<&'static str>,
    /// If they had no application protocol (ALPN) in common: those that the client offered.
    pub protocols: Vec<String>,
    /// What came in place of a ClientHello.
    pub instead: Option<Instead>,
    /// The certificate that was refused.
    pub claimed: Option<Box<Claimed>>,
    /// What was wrong with the certificate, where that says more than the error.
    pub detail: Option<String>,
    /// The alert that told the client.
    pub alert_sent: Option<String>,
    /// The alert that the client ended it with.
    pub alert_received: Option<String>,
}

impl Clues {
    /// Right behind the call into rustls that failed with `error`: before anything
    /// that waits.
    pub(super) fn gather(error: &Error, session: Option<&CommonState>) -> Self {
        let mut clues = Self {
            version: session
                .and_then(CommonState::protocol_version)
                .map(version_name),
            ..Self::default()
        };
        match error {
            Error::InvalidCertificate(why) => {
                if let Some(rejected) = rejected::take() {
                    clues.claimed = rejected.claimed;
                    clues.detail = rejected.detail;
                }
                clues.sent(AlertDescription::from(why.clone()));
            }
            Error::NoCertificatesPresented => clues.sent(AlertDescription::CertificateRequired),
            Error::DecryptError => clues.sent(AlertDescription::DecryptError),
            Error::NoApplicationProtocol => clues.sent(AlertDescription::NoApplicationProtocol),
            Error::AlertReceived(alert) => clues.alert_received = Some(words::alert(*alert)),
            _ => {}
        }
        clues
    }

    /// Of a client whose handshake was fine, and whose certificate is refused after it.
    pub fn of(certificate: &[u8]) -> Self {
        Self {
            claimed: Claimed::from_der(certificate).map(Box::new),
            ..Self::default()
        }
    }

    fn sent(&mut self, alert: AlertDescription) {
        self.alert_sent = Some(words::alert(alert));
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
        match (&self.instead, &self.detail) {
            (Some(instead), _) => instead.to_string(),
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

/// A version's name in the log.
pub(super) const fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "1.3",
        ProtocolVersion::TLSv1_2 => "1.2",
        _ => "unknown",
    }
}

/// A handshake that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .clues.explain(.error))]
pub struct Failed {
    /// Why.
    pub error: HandshakeError,
    /// Whose it was.
    pub clues: Clues,
}

impl<E: Into<HandshakeError>> From<E> for Box<Failed> {
    fn from(error: E) -> Self {
        let error = error.into();
        let clues = match &error {
            HandshakeError::Tls(error) => Clues::gather(error, None),
            _ => Clues::default(),
        };
        Self::new(Failed { error, clues })
    }
}
