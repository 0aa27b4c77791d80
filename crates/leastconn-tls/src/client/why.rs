//! Explanations of failed TLS connections to servers, each with a remedy.
//!
//! Names in a server's certificate come from the network: only a few are quoted, and with
//! control characters escaped.

use std::net::IpAddr;

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

use crate::{alert, error_text};

/// Maximum number of names of a certificate in an error.
const NAMES: usize = 4;

/// Maximum length of a name in characters.
const LONGEST: usize = 100;

pub(super) fn why(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(alert) => alerted(*alert),
        Error::InvalidMessage(why) => {
            format!(
                "the server does not speak TLS ({})",
                error_text::message(why)
            )
        }
        Error::PeerIncompatible(why) => {
            let why = error_text::spelled_as(why);
            format!("no common version or cipher suite ({why})")
        }
        Error::NoCertificatesPresented => "the server shows no certificate".to_owned(),
        other => error_text::error(other),
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    let what = match error {
        E::Expired => "has expired".to_owned(),
        E::ExpiredContext { not_after, .. } => format!("expired at {}", date(*not_after)),
        E::NotValidYet => "is not valid yet".to_owned(),
        E::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}", date(*not_before))
        }
        E::Revoked => "is revoked".to_owned(),
        E::UnknownIssuer => "was not issued by an authority of `ca`".to_owned(),
        E::UnknownRevocationStatus => "has an issuer that no list of `crl` is of".to_owned(),
        E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
            "has an issuer whose revocation list has expired".to_owned()
        }
        E::BadSignature => "has a signature that is not its issuer's".to_owned(),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "is not for servers (extended key usage)".to_owned()
        }
        E::NotValidForName => "is for another name".to_owned(),
        E::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            let hint = if ip_in_dns(presented).any(|ip| ip == expected) {
                "; a server that is verified by address needs an IP address SAN (openssl: IP:)"
            } else {
                ""
            };
            format!("is not for `{expected}`: {}{hint}", names(presented))
        }
        other => return error_text::certificate("the server's", other),
    };
    format!("the server's certificate {what}")
}

/// The name without the notation of rustls, such as `DnsName("…")`.
fn bare(presented: &str) -> &str {
    let wrapped = |kind: &str| presented.strip_prefix(kind)?.strip_suffix(')');
    let quoted = ["DnsName(", "UniformResourceIdentifier("];
    let quoted = quoted.into_iter().find_map(wrapped).and_then(|text| {
        let text = text.strip_prefix('"')?;
        text.strip_suffix('"')
    });
    match presented {
        "DirectoryName" => "a directory name",
        other if other.starts_with("Unsupported(") => "a name of another kind",
        other => quoted.or_else(|| wrapped("IpAddress(")).unwrap_or(other),
    }
}

/// IP addresses in DNS names, which match no server.
fn ip_in_dns(presented: &[String]) -> impl Iterator<Item = &str> {
    presented
        .iter()
        .filter(|name| name.starts_with("DnsName("))
        .map(|name| bare(name))
        .filter(|name| name.parse::<IpAddr>().is_ok())
}

fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "it has no subject alternative name".to_owned();
    }
    let mut told: Vec<_> = presented
        .iter()
        .take(NAMES)
        .map(|name| {
            let short: String = bare(name).chars().take(LONGEST).collect();
            let note = match ip_in_dns(std::slice::from_ref(name)).next() {
                Some(_) => " (an IP address given as a DNS name)",
                None => "",
            };
            format!("{}{note}", short.escape_debug())
        })
        .collect();
    if presented.len() > NAMES {
        told.push(format!("{} more", presented.len() - NAMES));
    }
    format!("it is for {}", told.join(", "))
}

fn alerted(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => {
            "the server demands a certificate, and was shown none: see `cert`".to_owned()
        }
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied
        | A::DecryptError => {
            let alert = alert::name(alert);
            format!("the server refuses the certificate that it was shown (alert {alert})")
        }
        // In TLS 1.2 this alert also means that a certificate is missing.
        A::HandshakeFailure => {
            "the server refuses the handshake (alert handshake_failure): no common cipher suite, \
             or it demands a certificate"
                .to_owned()
        }
        A::UnrecognisedName => {
            "the server knows nothing of the name it was asked for (alert unrecognized_name)"
                .to_owned()
        }
        other => format!(
            "the server ended the connection with alert {}",
            alert::name(other)
        ),
    }
}

fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, pki_types::ServerName};

    use super::*;

    fn of_names(presented: &[&str]) -> String {
        why(&Error::InvalidCertificate(
            CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("web.internal").unwrap(),
                presented: presented.iter().map(ToString::to_string).collect(),
            },
        ))
    }

    #[test]
    fn another_name_is_told_with_the_right_one() {
        assert_eq!(
            of_names(&["DnsName(\"a.internal\")", "IpAddress(10.0.0.1)"]),
            "the server's certificate is not for `web.internal`: it is for \
             a.internal, 10.0.0.1"
        );
        assert_eq!(
            of_names(&[]),
            "the server's certificate is not for `web.internal`: it has no subject alternative name"
        );
    }

    #[test]
    fn ip_address_given_as_a_dns_name_is_named() {
        let expected = ServerName::try_from("10.0.0.1").unwrap();
        let presented = vec!["DnsName(\"10.0.0.1\")".to_owned()];
        let error = why(&Error::InvalidCertificate(
            CertificateError::NotValidForNameContext {
                expected,
                presented,
            },
        ));
        assert_eq!(
            error,
            "the server's certificate is not for `10.0.0.1`: it is for 10.0.0.1 (an IP address \
             given as a DNS name); a server that is verified by address needs an IP address SAN \
             (openssl: IP:)"
        );
        assert_eq!(
            of_names(&["DnsName(\"::1\")"]),
            "the server's certificate is not for `web.internal`: it is for ::1 (an IP address \
             given as a DNS name)"
        );
    }

    #[test]
    fn names_of_a_certificate_neither_forge_lines_nor_fill_them() {
        let long = "x".repeat(10_000);
        let said = of_names(&["a\nb\u{1b}[2J", &long, "c", "d", "e", "f"]);
        assert!(!said.contains(char::is_control), "{said}");
        assert!(said.contains("a\\nb\\u{1b}[2J"), "{said}");
        assert!(said.ends_with("c, d, 2 more"), "{said}");
        assert!(said.len() < 400, "{}", said.len());
    }

    #[test]
    fn dates_are_dates() {
        use std::time::Duration;
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext {
            time: at(1_800_000_000),
            not_after: at(1_700_000_000),
        };
        assert_eq!(
            why(&Error::InvalidCertificate(expired)),
            "the server's certificate expired at 2023-11-14T22:13:20Z"
        );
    }

    #[test]
    fn what_refuses_our_certificate_is_told_from_other_alerts() {
        let of = |alert| why(&Error::AlertReceived(alert));
        assert!(of(AlertDescription::CertificateRequired).contains("demands a certificate"));
        assert!(of(AlertDescription::UnknownCA).contains("refuses the certificate"));
        assert!(of(AlertDescription::InternalError).contains("alert internal_error"));
    }
}
