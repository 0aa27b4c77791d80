//! Failed handshakes in words: what an operator can do something with.

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

use super::chain::{ChainError, Usage};
use crate::{crl::Missing, unfit};

/// The name of an alert, as RFC 8446 writes it.
pub(super) fn alert(alert: AlertDescription) -> String {
    let camel = match alert {
        AlertDescription::UnknownCA => "UnknownCa",
        AlertDescription::UnknownPSKIdentity => "UnknownPskIdentity",
        AlertDescription::UnrecognisedName => "UnrecognizedName",
        AlertDescription::EncryptedClientHelloRequired => "EchRequired",
        _ => alert.as_str().unwrap_or_default(),
    };
    if camel.is_empty() {
        return format!("alert_{}", u8::from(alert));
    }
    let mut name = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// What went wrong.
pub(super) fn error(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "the client has shown no certificate".to_owned(),
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(alert) => received(*alert),
        Error::NoApplicationProtocol => {
            "no application protocol (ALPN) in common with `alpn` of this listener".to_owned()
        }
        other => unfit::error(other),
    }
}

fn received(description: AlertDescription) -> String {
    use AlertDescription as A;
    let distrust = match description {
        A::UnknownCA => {
            "it has no authority that issued `cert`, or an intermediate is missing from that file"
        }
        A::BadCertificate => "most often, the name it asked for is not in `cert`",
        A::CertificateExpired => "look at the dates of `cert`, and at both clocks",
        A::CertificateRevoked => "`cert` is on a revocation list",
        A::UnsupportedCertificate | A::CertificateUnknown => {
            "the name it asked for is not in `cert`, or `cert` is of a kind it does not take, or \
             not issued by its authorities"
        }
        A::HandshakeFailure | A::ProtocolVersion | A::InsufficientSecurity => {
            return format!(
                "the client ended the handshake by the alert {}: it has no version or suite in \
                 common with us that it would take",
                alert(description)
            );
        }
        _ => {
            return format!(
                "the client ended the handshake by the alert {}",
                alert(description)
            );
        }
    };
    format!(
        "the client does not trust our certificate, and said so by the alert {}: {distrust}",
        alert(description)
    )
}

/// Why the chain of a peer is refused.
pub(super) fn chain(error: &ChainError, usage: Usage) -> String {
    let (peer, ca) = match usage {
        Usage::Client => ("client", "client_ca"),
        Usage::Server => ("server", "ca"),
    };
    match error {
        ChainError::Certificate(error) => certificate(error),
        ChainError::Path(error) => format!("the {peer}'s chain is refused: {error}"),
        ChainError::TooManyIntermediates { sent, max } => format!(
            "the client sent {sent} certificates beside its own, and `max_intermediates` of the \
             listener is {max}"
        ),
        ChainError::IssuerDates {
            name,
            is_authority,
            error,
        } => {
            let what = if *is_authority {
                format!("{name}, the authority above the {peer}'s certificate,")
            } else {
                format!("{name}, which the {peer} sends above its certificate,")
            };
            match error {
                CertificateError::ExpiredContext { not_after, .. } => {
                    format!("{what} expired at {}", date(*not_after))
                }
                CertificateError::NotValidYetContext { not_before, .. } => {
                    format!("{what} is not valid before {}", date(*not_before))
                }
                _ => format!("{what} is out of date"),
            }
        }
        ChainError::Revoked {
            issuer,
            file,
            is_own,
        } => {
            let whose = if *is_own {
                format!("the {peer}'s certificate")
            } else {
                format!("a certificate above the {peer}'s")
            };
            format!("{whose} is revoked by the list of {issuer} in {file:?}")
        }
        ChainError::CrlExpired { issuer, file, at } => format!(
            "the revocation list of {issuer} in {file:?} expired at {at}: put a current one in its \
             place"
        ),
        ChainError::NoCrl {
            issuer,
            is_authority,
            missing,
        } => no_list(issuer, *is_authority, missing, ca),
    }
}

fn no_list(issuer: &str, is_authority: bool, missing: &Missing, ca: &str) -> String {
    let remedy = if is_authority {
        format!("add the list of {issuer} to `crl`")
    } else {
        format!("put the intermediate {issuer} into `{ca}`, and its revocation list into `crl`")
    };
    match missing {
        Missing::Issuer => format!("`crl` holds no list of {issuer}: {remedy}"),
        Missing::Key => format!(
            "`crl` holds no list of {issuer} that is signed with the key it issued this with: \
             {remedy}"
        ),
        Missing::Partition { lists, certificate } => {
            let lists = match &lists[..] {
                [] => "a distribution point without a URI".to_owned(),
                uris => format!("the distribution point {}", uris.join(", ")),
            };
            let (certificate, remedy) = match &certificate[..] {
                [] => (
                    "names no distribution point with a URI",
                    format!("add the full list of {issuer} to `crl`"),
                ),
                uris => (
                    "names another one",
                    format!("add the list published at {} to `crl`", uris.join(" or ")),
                ),
            };
            format!(
                "the list of {issuer} in `crl` covers only {lists}, and the certificate \
                 {certificate}: {remedy}"
            )
        }
    }
}

/// Why a client's certificate is refused.
pub(super) fn certificate(error: &CertificateError) -> String {
    use CertificateError as C;
    match error {
        C::UnknownIssuer => "no authority of `client_ca` issued the client's certificate, or an \
                             intermediate is missing from what the client sends"
            .to_owned(),
        C::BadSignature => "a signature does not fit: the client's certificate is not signed by \
                            the authority that it names, or the client has another key"
            .to_owned(),
        C::ExpiredContext { not_after, .. } => format!(
            "the client's certificate, or one above it, was valid until {}",
            date(*not_after)
        ),
        C::NotValidYetContext { not_before, .. } => format!(
            "the client's certificate, or one above it, is not valid before {}",
            date(*not_before)
        ),
        C::Revoked => "the client's certificate, or one above it, is revoked".to_owned(),
        C::UnknownRevocationStatus => "no list of `crl` is of who issued the client's \
                                       certificate, or one above it"
            .to_owned(),
        C::ExpiredRevocationList => "the revocation list of its issuer has expired".to_owned(),
        C::ExpiredRevocationListContext { next_update, .. } => format!(
            "the revocation list of its issuer expired at {}: put a current one in its place",
            date(*next_update)
        ),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => {
            "the client's certificate is not for clients: its extended key usage lacks clientAuth"
                .to_owned()
        }
        other => unfit::certificate("the client's", other),
    }
}

fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(
            || "a time long ago or far ahead".to_owned(),
            |at| at.to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_named_as_the_standard_names_them() {
        use AlertDescription as A;
        for (description, name) in [
            (A::UnknownCA, "unknown_ca"),
            (A::BadRecordMac, "bad_record_mac"),
            (A::CertificateRequired, "certificate_required"),
            (A::UnrecognisedName, "unrecognized_name"),
            (A::UnknownPSKIdentity, "unknown_psk_identity"),
            (A::Unknown(200), "alert_200"),
        ] {
            assert_eq!(alert(description), name);
        }
    }

    #[test]
    fn dates_and_distrust_are_said() {
        let expired = CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(std::time::Duration::from_secs(9)),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::ZERO),
        };
        let words = error(&Error::InvalidCertificate(expired));
        assert!(
            words.ends_with("valid until 1970-01-01T00:00:00Z"),
            "{words}"
        );
        let words = error(&Error::AlertReceived(AlertDescription::UnknownCA));
        assert!(words.contains("does not trust our certificate"), "{words}");
        assert!(words.contains("unknown_ca"), "{words}");
    }
}
