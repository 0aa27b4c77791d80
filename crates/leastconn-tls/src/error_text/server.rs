//! Texts for failed TLS connections to servers.

use std::net::IpAddr;

use rustls::{AlertDescription, CertificateError, Error};

use super::{date, listed, message, shortened, variant_name};
use crate::alert;

pub(crate) fn server_error(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(alert) => received_alert(*alert),
        Error::InvalidMessage(error) => {
            format!("the server does not speak TLS ({})", message(error))
        }
        Error::PeerIncompatible(error) => {
            format!(
                "no common version or cipher suite ({})",
                variant_name(error)
            )
        }
        Error::NoCertificatesPresented => "the server presented no certificate".to_owned(),
        other => super::error(other),
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    let problem = match error {
        E::Expired => "has expired".to_owned(),
        E::ExpiredContext { not_after, .. } => format!("expired at {}", date(*not_after)),
        E::NotValidYet => "is not valid yet".to_owned(),
        E::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}", date(*not_before))
        }
        E::Revoked => "is revoked".to_owned(),
        E::UnknownIssuer => "was not issued by an authority of `ca`".to_owned(),
        E::UnknownRevocationStatus => "has an issuer without a CRL in `crl`".to_owned(),
        E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
            "has an issuer whose CRL has expired".to_owned()
        }
        E::BadSignature => "has an invalid signature".to_owned(),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "is not for servers (extended key usage)".to_owned()
        }
        E::NotValidForName => "is for another name".to_owned(),
        E::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            let hint = if ips_in_dns_names(presented).any(|ip| ip == expected) {
                "; a server that is verified by address needs an IP address SAN (openssl: IP:)"
            } else {
                ""
            };
            format!("is not for `{expected}`: {}{hint}", names(presented))
        }
        other => return super::certificate("the server's", other),
    };
    format!("the server's certificate {problem}")
}

/// Removes the type that rustls writes around a name, as in `DnsName("…")`.
fn bare_name(presented: &str) -> &str {
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

/// The presented DNS names that are IP addresses. rustls never accepts such a name.
fn ips_in_dns_names(presented: &[String]) -> impl Iterator<Item = &str> {
    presented
        .iter()
        .filter(|name| name.starts_with("DnsName("))
        .map(|name| bare_name(name))
        .filter(|name| name.parse::<IpAddr>().is_ok())
}

fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "it has no subject alternative name".to_owned();
    }
    let names = presented.iter().map(|name| {
        let note = match ips_in_dns_names(std::slice::from_ref(name)).next() {
            Some(_) => " (an IP address given as a DNS name)",
            None => "",
        };
        format!("{}{note}", shortened(bare_name(name)))
    });
    format!("it is for {}", listed(names))
}

fn received_alert(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => {
            "the server demands a certificate, but none was sent: see `cert`".to_owned()
        }
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied
        | A::DecryptError => {
            format!(
                "the server refuses our certificate (alert {})",
                alert::name(alert)
            )
        }
        // In TLS 1.2, a server also sends this alert if the client's certificate is missing.
        A::HandshakeFailure => {
            "the server refuses the handshake (alert handshake_failure): no common cipher suite, \
             or it demands a certificate"
                .to_owned()
        }
        A::UnrecognisedName => {
            "the server does not know the requested name (alert unrecognized_name)".to_owned()
        }
        other => format!(
            "the server ended the connection with alert {}",
            alert::name(other)
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn name_error(presented: &[&str]) -> String {
        server_error(&Error::InvalidCertificate(
            CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("web.internal").unwrap(),
                presented: presented.iter().map(ToString::to_string).collect(),
            },
        ))
    }

    #[test]
    fn wrong_name_is_reported_with_expected_one() {
        assert_eq!(
            name_error(&["DnsName(\"a.internal\")", "IpAddress(10.0.0.1)"]),
            "the server's certificate is not for `web.internal`: it is for \
             a.internal, 10.0.0.1"
        );
        assert_eq!(
            name_error(&[]),
            "the server's certificate is not for `web.internal`: it has no subject alternative name"
        );
    }

    #[test]
    fn ip_address_as_dns_name_is_reported() {
        let expected = ServerName::try_from("10.0.0.1").unwrap();
        let presented = vec!["DnsName(\"10.0.0.1\")".to_owned()];
        let error = server_error(&Error::InvalidCertificate(
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
            name_error(&["DnsName(\"::1\")"]),
            "the server's certificate is not for `web.internal`: it is for ::1 (an IP address \
             given as a DNS name)"
        );
    }

    #[test]
    fn quoted_names_are_escaped_and_short() {
        let long = "x".repeat(10_000);
        let text = name_error(&["a\nb\u{1b}[2J", &long, "c", "d", "e", "f"]);
        assert!(!text.contains(char::is_control), "{text}");
        assert!(text.contains("a\\nb\\u{1b}[2J"), "{text}");
        assert!(text.ends_with("c, d, 2 more"), "{text}");
        assert!(text.len() < 400, "{}", text.len());
    }

    #[test]
    fn dates_are_formatted() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext {
            time: at(1_800_000_000),
            not_after: at(1_700_000_000),
        };
        assert_eq!(
            server_error(&Error::InvalidCertificate(expired)),
            "the server's certificate expired at 2023-11-14T22:13:20Z"
        );
    }

    #[test]
    fn alerts_about_our_certificate_are_explained() {
        let text = |alert| server_error(&Error::AlertReceived(alert));
        assert!(text(AlertDescription::CertificateRequired).contains("demands a certificate"));
        assert!(text(AlertDescription::UnknownCA).contains("refuses our certificate"));
        assert!(text(AlertDescription::InternalError).contains("alert internal_error"));
    }
}
