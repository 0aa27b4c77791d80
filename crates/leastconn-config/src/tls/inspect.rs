//! Checks on the contents of certificates in files.

use std::net::IpAddr;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName,
    oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS, prelude::FromDer, x509::X509Version,
};

use leastconn_tls::{
    crl::{display_name, malformed, timestamp},
    distinguished_name,
    x509::{constraints::Constraints, extensions::unknown_critical, key},
};

use super::Dated;

/// The relevant contents of a certificate.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) subject: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    raw_subject: Vec<u8>,
    raw_issuer: Vec<u8>,
    is_authority: bool,
    /// The reason why this is not a CA certificate. `None` for a CA certificate.
    not_a_ca: Option<&'static str>,
    has_names: bool,
    /// IP addresses that are encoded as DNS names.
    ip_in_dns: Vec<String>,
    for_servers: bool,
    /// Kinds of name constraints that cannot be checked.
    unchecked: Vec<&'static str>,
    /// The kind of the public key, if the verifier does not accept signatures made with it.
    unsupported_key: Option<String>,
    /// The OID of a critical extension that is not supported.
    unknown_critical: Option<String>,
    for_clients: bool,
}

/// The use of the balancer's own certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The balancer presents the certificate to clients.
    Server,
    /// The balancer presents the certificate to servers.
    Client,
}

impl Facts {
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    pub(super) fn dated(&self) -> Dated {
        Dated {
            name: self.subject.clone(),
            from: self.not_before,
            until: self.not_after,
        }
    }

    /// Whether this is a CA certificate.
    pub(super) fn may_issue(&self) -> bool {
        self.not_a_ca.is_none()
    }

    /// Whether subject and issuer are the same.
    pub(super) fn is_self_issued(&self) -> bool {
        self.raw_subject == self.raw_issuer
    }

    fn validity(&self, now: Timestamp, consequence: &str) -> Option<Remark> {
        let (message, note) = if now > self.not_after {
            (
                format!(
                    "the certificate of {} expired at {}",
                    self.subject, self.not_after
                ),
                consequence,
            )
        } else if now < self.not_before {
            (
                format!(
                    "the certificate of {} is not valid before {}",
                    self.subject, self.not_before
                ),
                consequence,
            )
        } else if self.dated().urgency(now).is_warning() {
            (
                format!(
                    "the certificate of {} expires at {}",
                    self.subject, self.not_after
                ),
                "",
            )
        } else {
            return None;
        };
        Some(Remark {
            message,
            note: (!note.is_empty()).then(|| note.to_owned()),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) message: String,
    pub(super) note: Option<String>,
}

impl Remark {
    fn new(message: impl Into<String>, note: &str) -> Self {
        Self {
            message: message.into(),
            note: Some(note.to_owned()),
        }
    }
}

/// Calls `look` with the parsed certificate. Returns `None` if the certificate cannot be
/// parsed.
pub(super) fn parsed<T>(
    certificate: &CertificateDer<'_>,
    look: impl FnOnce(&X509Certificate<'_>) -> T,
) -> Option<T> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).ok()?;
    Some(look(&parsed))
}

/// The subject, formatted for messages.
pub(super) fn display_subject(certificate: &X509Certificate<'_>) -> String {
    display_name(certificate.subject())
}

pub(super) fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, String> {
    let (rest, parsed) = X509Certificate::from_der(certificate.as_ref()).map_err(malformed)?;
    if !rest.is_empty() {
        return Err("there is data after the certificate".to_owned());
    }
    let usage = parsed.extended_key_usage().ok().flatten();
    Ok(Facts {
        subject: display_subject(&parsed),
        not_before: timestamp(parsed.validity().not_before),
        not_after: timestamp(parsed.validity().not_after),
        raw_subject: parsed.subject().as_raw().to_vec(),
        raw_issuer: parsed.issuer().as_raw().to_vec(),
        is_authority: parsed.is_ca(),
        not_a_ca: not_a_ca(&parsed),
        has_names: matches!(parsed.subject_alternative_name(), Ok(Some(_))),
        ip_in_dns: ip_in_dns(&parsed),
        for_servers: usage
            .as_ref()
            .is_none_or(|usage| usage.value.any || usage.value.server_auth),
        for_clients: usage
            .as_ref()
            .is_none_or(|usage| usage.value.any || usage.value.client_auth),
        unchecked: unchecked(&parsed),
        unsupported_key: key::unsupported(parsed.public_key()),
        unknown_critical: unknown_critical(&parsed),
    })
}

/// IP addresses that are encoded as DNS names in a certificate. A client that verifies an IP
/// address ignores DNS names.
fn ip_in_dns(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    dns.filter(|name| name.parse::<IpAddr>().is_ok())
        .map(str::to_owned)
        .collect()
}

/// The reason why a certificate is not a CA certificate, by OpenSSL's rules. This check is needed
/// because the verifier accepts any certificate as a trust anchor.
fn not_a_ca(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    let has_constraints = certificate
        .get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS)
        .map(|extension| extension.is_some());
    let constraints = certificate.basic_constraints();
    match (has_constraints, constraints) {
        (Ok(true), Ok(Some(constraints))) if !constraints.value.ca => {
            return Some("its basic constraints say CA:FALSE");
        }
        (Ok(true), Ok(Some(_))) | (Ok(false), _) => {}
        _ => return Some("its basic constraints cannot be read"),
    }
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.map(|usage| usage.value.key_cert_sign()),
        Err(_) => return Some("its key usage cannot be read"),
    };
    match (may_sign, certificate.is_ca()) {
        (Some(false), _) => Some("its key usage lacks keyCertSign"),
        (_, true) | (Some(true), false) => None,
        // Old roots have version 1, which has no extensions.
        (None, false) if certificate.version() == X509Version::V1 => {
            (certificate.subject().as_raw() != certificate.issuer().as_raw())
                .then_some("it has X.509 version 1 and is not self-issued")
        }
        (None, false) => Some("it has neither basic constraints nor a key usage"),
    }
}

/// Kinds of name constraints that cannot be checked.
fn unchecked(certificate: &X509Certificate<'_>) -> Vec<&'static str> {
    let constraints = Constraints::of(certificate).unwrap_or_default();
    let kinds = constraints.kinds().iter();
    kinds
        .filter(|kind| !kind.is_checked())
        .map(|kind| kind.name())
        .collect()
}

/// Warnings about one of the balancer's own certificates and its intermediates.
pub(super) fn own_certificate(
    own: &Facts,
    above: &[Facts],
    purpose: Purpose,
    now: Timestamp,
) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let (whose, consequence, first) = match purpose {
        Purpose::Server => (
            "the server's certificate",
            "clients that verify it will not connect",
            "the file must start with the server's certificate, followed by its intermediates",
        ),
        Purpose::Client => (
            "the certificate that is presented to servers",
            "servers that verify it will refuse it",
            "the file must start with the balancer's certificate, followed by its intermediates",
        ),
    };
    for certificate in std::iter::once(own).chain(above) {
        remarks.extend(certificate.validity(now, consequence));
    }
    if own.is_authority {
        remarks.push(Remark::new(format!("{whose} is a CA certificate"), first));
    }
    if purpose == Purpose::Server && !own.has_names {
        remarks.push(Remark::new(
            "the server's certificate has no subject alternative names",
            "clients ignore the common name",
        ));
    }
    if purpose == Purpose::Server && !own.ip_in_dns.is_empty() {
        remarks.push(Remark::new(
            format!(
                "the server's certificate contains an IP address as a DNS name: {}",
                own.ip_in_dns.join(", ")
            ),
            "clients that connect to this address refuse it: issue it with an IP address SAN \
            (openssl: IP:)",
        ));
    }
    let (fits, of) = match purpose {
        Purpose::Server => (own.for_servers, "serverAuth"),
        Purpose::Client => (own.for_clients, "clientAuth"),
    };
    if !fits {
        remarks.push(Remark::new(
            format!("the extended key usage of {whose} does not include {of}"),
            consequence,
        ));
    }
    let mut below = own;
    for certificate in above {
        if distinguished_name::canonical(&certificate.raw_subject)
            != distinguished_name::canonical(&below.raw_issuer)
        {
            remarks.push(Remark::new(
                format!(
                    "the certificate of {} did not issue the preceding certificate",
                    certificate.subject
                ),
                "each certificate in the file must be followed by its issuer's",
            ));
            break;
        }
        below = certificate;
    }
    remarks
}

/// Warnings about a certificate in the CA file. If `alone`, the certificate is a self-signed
/// certificate that a server may present.
pub(super) fn authority(authority: &Facts, ca: &str, alone: bool, now: Timestamp) -> Vec<Remark> {
    let consequence = "certificates that it issued are refused (`expired_certificate`)";
    let mut remarks: Vec<_> = authority.validity(now, consequence).into_iter().collect();
    if let Some(why) = authority.not_a_ca {
        remarks.push(Remark::new(
            format!(
                "the certificate of {} is not a CA certificate: {why}",
                authority.subject
            ),
            &if alone {
                "only this certificate itself is trusted, not certificates that its key signed"
                    .to_owned()
            } else {
                format!("it is ignored: `{ca}` is for certificates of authorities")
            },
        ));
    }
    if !authority.unchecked.is_empty() {
        remarks.push(Remark::new(
            format!(
                "{} has name constraints for {}, which cannot be checked",
                authority.subject,
                authority.unchecked.join(", ")
            ),
            "certificates that it issued and that contain such a name are refused",
        ));
    }
    if let Some(kind) = &authority.unsupported_key {
        remarks.push(Remark::new(
            format!("{} has {kind}, which is not accepted", authority.subject),
            &format!(
                "every certificate that it issued is refused: use {}",
                key::ACCEPTED
            ),
        ));
    }
    if let Some(oid) = &authority.unknown_critical {
        remarks.push(Remark::new(
            format!(
                "the certificate of {} has a critical extension that is not supported: {oid}",
                authority.subject
            ),
            "it is trusted nevertheless; the extension is not enforced",
        ));
    }
    let (allows, purpose) = match ca {
        "client_ca" => (authority.for_clients, "clientAuth"),
        _ => (authority.for_servers, "serverAuth"),
    };
    if !allows && !alone {
        remarks.push(Remark::new(
            format!(
                "the extended key usage of {} lacks {purpose}",
                authority.subject
            ),
            "every certificate that it issued is refused",
        ));
    }
    remarks
}
