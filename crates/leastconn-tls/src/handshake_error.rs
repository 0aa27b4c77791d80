//! Why a handshake failed, and the text for it.

use std::io;

use rustls::{AlertDescription, Error};

use crate::{alert, error_text, permit::Evicted, trust::ChainErrorKind};

/// Why a handshake failed. If there is an alert for the error, it was sent to the client, unless
/// the socket could not accept it immediately.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// A protocol error, or an error in the certificates.
    #[error("{}", text(.0))]
    Tls(#[from] Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Too many handshakes were waiting for their clients, and this handshake had waited the
    /// longest.
    #[error(transparent)]
    Evicted(#[from] Evicted),
    /// The client closed the connection during the handshake.
    #[error("the client closed the connection before the handshake was complete")]
    Closed,
}

/// Why a handshake failed, without the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeErrorKind {
    /// A certificate is required, and the client sent none.
    NoCertificate,
    /// The client's certificate chain is not accepted.
    Chain(ChainErrorKind),
    /// See [`HandshakeError::Evicted`].
    Evicted,
    /// A protocol or I/O error, or the client closed the connection.
    Other,
}

impl HandshakeError {
    pub const fn kind(&self) -> HandshakeErrorKind {
        match self {
            Self::Tls(Error::NoCertificatesPresented) => HandshakeErrorKind::NoCertificate,
            Self::Tls(Error::InvalidCertificate(error)) => {
                HandshakeErrorKind::Chain(ChainErrorKind::of(error))
            }
            Self::Evicted(_) => HandshakeErrorKind::Evicted,
            Self::Tls(_) | Self::Io(_) | Self::Closed => HandshakeErrorKind::Other,
        }
    }

    /// Converts the error into the I/O error that a stream returns.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Evicted(error) => io::Error::other(error),
            Self::Closed => io::ErrorKind::UnexpectedEof.into(),
            Self::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// The text for a rustls error.
fn text(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "the client presented no certificate".to_owned(),
        Error::InvalidCertificate(error) => error_text::client_certificate(error),
        Error::AlertReceived(alert) => received_alert(*alert),
        Error::NoApplicationProtocol => {
            "no application protocol (ALPN) in common with `alpn` of this listener".to_owned()
        }
        other => error_text::error(other),
    }
}

fn received_alert(description: AlertDescription) -> String {
    use AlertDescription as A;
    let cause = match description {
        A::UnknownCA => {
            "it does not have the authority that issued `cert`, or an intermediate is missing \
             from that file"
        }
        A::BadCertificate => "usually, `cert` does not contain the requested name",
        A::CertificateExpired => "check the dates of `cert`, and both clocks",
        A::CertificateRevoked => "`cert` is on a CRL",
        A::UnsupportedCertificate | A::CertificateUnknown => {
            "`cert` does not contain the requested name, is of a type that the client does not \
             support, or was not issued by the client's authorities"
        }
        A::HandshakeFailure | A::ProtocolVersion | A::InsufficientSecurity => {
            return format!(
                "the client ended the handshake with the alert {}: no protocol version or cipher \
                 suite in common",
                alert::name(description)
            );
        }
        _ => {
            return format!(
                "the client ended the handshake with the alert {}",
                alert::name(description)
            );
        }
    };
    format!(
        "the client does not trust our certificate (alert {}): {cause}",
        alert::name(description)
    )
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, pki_types::UnixTime};

    use super::*;

    #[test]
    fn text_names_dates_and_alerts() {
        let expired = CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(std::time::Duration::from_secs(9)),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::ZERO),
        };
        let message = text(&Error::InvalidCertificate(expired));
        assert!(
            message.ends_with("valid until 1970-01-01T00:00:00Z"),
            "{message}"
        );
        let message = text(&Error::AlertReceived(AlertDescription::UnknownCA));
        assert!(
            message.contains("does not trust our certificate"),
            "{message}"
        );
        assert!(message.contains("unknown_ca"), "{message}");
    }
}
