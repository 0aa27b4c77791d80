//! Texts for rustls and rustls-webpki errors, which would otherwise display as enum variant names.

mod client;
mod quoted;
mod server;

use std::fmt::Debug;

use jiff::Timestamp;
use rustls::{CertificateError, Error, InvalidMessage, pki_types::UnixTime};

pub(crate) use client::client_certificate;
pub(crate) use quoted::{listed, shortened};
pub(crate) use server::server_error;

/// Explains a certificate error, and what to do about it. `whose` is "the client's", "the
/// server's" or "the". The callers handle errors that depend on an authority, a CRL or a name.
pub(crate) fn certificate(whose: &str, error: &CertificateError) -> String {
    use CertificateError as C;
    let own = format!("{whose} certificate");
    let any = format!("{own}, or one above it,");
    match error {
        C::BadEncoding => format!("{any} is malformed"),
        C::UnhandledCriticalExtension => critical(&any),
        C::UnsupportedSignatureAlgorithmContext { .. } => format!(
            "{any} is signed with an algorithm that is not supported: issue it again with SHA-256 \
             or better"
        ),
        C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("{any} is signed with an algorithm that does not fit its issuer's key")
        }
        C::Other(other) => match other.0.downcast_ref() {
            Some(error) => certificate_of_webpki(&own, &any, error),
            // An error of this crate, which displays as a sentence.
            None => other.0.to_string(),
        },
        other => format!("{any} cannot be used: {}", variant_name(other)),
    }
}

/// Explains a rustls-webpki error for which rustls has no variant. `own` describes the peer's
/// certificate, and `any` describes that certificate or one above it.
fn certificate_of_webpki(own: &str, any: &str, error: &webpki::Error) -> String {
    use webpki::Error as E;
    match error {
        E::UnsupportedCertVersion => format!(
            "{any} is of X.509 version 1, which is not supported: issue it again with \
             extensions (`openssl x509 -req -extfile ...`)"
        ),
        E::CaUsedAsEndEntity => {
            format!("{own} is a CA certificate (CA:TRUE): issue one with CA:FALSE")
        }
        E::EndEntityUsedAsCa => {
            format!("{own} was issued by a certificate that is not a CA (CA:FALSE)")
        }
        E::PathLenConstraintViolated => {
            format!("{own} has more authorities above it than one of them allows (path length)")
        }
        E::NameConstraintViolation => format!(
            "name constraints of an authority above {own} do not allow its names, or cannot be \
             checked"
        ),
        E::UnsupportedCriticalExtension => critical(any),
        E::EmptyEkuExtension => {
            format!("{any} has an empty extended key usage, which allows no use")
        }
        other => format!("{any} cannot be used: {}", variant_name(other)),
    }
}

fn critical(any: &str) -> String {
    format!("{any} has an unsupported critical extension")
}

/// Explains why a CRL cannot be used.
pub fn crl(error: &webpki::Error) -> String {
    use webpki::Error as E;
    match error {
        E::UnsupportedDeltaCrl => {
            "it is a delta CRL, which is not supported: use a complete CRL".to_owned()
        }
        E::UnsupportedIndirectCrl => {
            "it covers certificates of other issuers too (indirect CRL), which is not supported: \
             use a separate CRL for each issuer"
                .to_owned()
        }
        E::UnsupportedRevocationReasonsPartitioning => {
            "it covers some revocation reasons only, which is not supported".to_owned()
        }
        E::UnsupportedCrlIssuingDistributionPoint => {
            "it covers a part of its issuer's certificates and does not give the full name of a \
             distribution point, which is not supported"
                .to_owned()
        }
        E::UnsupportedCriticalExtension => "it has an unsupported critical extension".to_owned(),
        E::BadDer | E::BadDerTime | E::MalformedExtensions | E::TrailingData(_) => {
            "it is malformed".to_owned()
        }
        other => variant_name(other),
    }
}

/// Explains a handshake error or a key error, without naming the peer.
pub fn error(error: &Error) -> String {
    match error {
        Error::InvalidMessage(error) => format!("invalid TLS message: {}", message(error)),
        Error::InappropriateMessage { got_type, .. } => {
            format!("unexpected message: {}", variant_name(got_type))
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            format!("unexpected message: {}", variant_name(got_type))
        }
        Error::PeerIncompatible(error) => {
            format!("no common TLS parameters: {}", variant_name(error))
        }
        Error::PeerMisbehaved(error) => {
            format!("violation of the TLS protocol: {}", variant_name(error))
        }
        Error::InvalidCertificate(error) => certificate("the", error),
        Error::InvalidEncryptedClientHello(error) => variant_name(error),
        Error::InconsistentKeys(error) => variant_name(error),
        Error::General(text) => text.clone(),
        other => other.to_string(),
    }
}

fn message(error: &InvalidMessage) -> String {
    variant_name(error)
}

pub(crate) fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

/// The name of an enum variant in separate words: `NoCipherSuitesInCommon` becomes "no
/// cipher suites in common".
fn variant_name(value: &impl Debug) -> String {
    split_name(&format!("{value:?}"))
}

fn split_name(debug: &str) -> String {
    // Omit the fields of the variant.
    let end = debug.find(|c: char| !c.is_ascii_alphanumeric());
    let mut words: Vec<String> = Vec::new();
    for c in debug[..end.unwrap_or(debug.len())].chars() {
        match words.last_mut() {
            Some(word) if !c.is_ascii_uppercase() => word.push(c),
            _ => words.push(c.to_ascii_lowercase().into()),
        }
    }
    let words: Vec<_> = words
        .iter()
        .map(|word| match &**word {
            "tls" => "TLS",
            "tls12" => "TLS 1.2",
            "tls13" => "TLS 1.3",
            "kx" => "key exchange",
            "psk" => "PSK",
            "ccs" => "ChangeCipherSpec",
            other => other,
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{OtherError, PeerIncompatible};
    use webpki::{DerTypeId, Error as E};

    use super::*;

    fn text(error: impl std::error::Error + Send + Sync + 'static) -> String {
        let error = CertificateError::Other(OtherError(Arc::new(error)));
        certificate("the client's", &error)
    }

    #[test]
    fn own_errors_are_shown_unchanged() {
        assert_eq!(text(std::io::Error::other("unsuitable")), "unsuitable");
    }

    #[test]
    fn other_errors_are_named_by_variant() {
        assert_eq!(
            text(E::MaximumPathDepthExceeded),
            "the client's certificate, or one above it, cannot be used: maximum path depth \
             exceeded"
        );
        assert_eq!(
            text(E::TrailingData(DerTypeId::Certificate)),
            "the client's certificate, or one above it, cannot be used: trailing data"
        );
        assert_eq!(
            error(&Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOfferedOrEnabled
            )),
            "no common TLS parameters: TLS 1.2 not offered or enabled"
        );
        assert_eq!(
            error(&Error::InvalidMessage(InvalidMessage::MissingData("Hello"))),
            "invalid TLS message: missing data"
        );
    }

    #[test]
    fn frequent_errors_have_a_remedy() {
        for (error, expected) in [
            (
                E::UnsupportedCertVersion,
                "version 1, which is not supported: issue it again",
            ),
            (
                E::CaUsedAsEndEntity,
                "is a CA certificate (CA:TRUE): issue one with CA:FALSE",
            ),
            (E::EndEntityUsedAsCa, "is not a CA (CA:FALSE)"),
            (E::NameConstraintViolation, "do not allow its names"),
        ] {
            let name = error.to_string();
            let text = text(error);
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains(&name), "{text}");
        }
    }
}
