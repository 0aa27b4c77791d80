//! What certificates and revocation lists say about themselves.

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use x509_parser::{
    certificate::X509Certificate,
    error::X509Error,
    extensions::{GeneralName, NameConstraints},
    oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS,
    prelude::FromDer,
    revocation_list::CertificateRevocationList,
    time::ASN1Time,
    x509::X509Version,
};

/// How long before its end a certificate is worth a word.
const SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What matters of a certificate.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) subject: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    raw_subject: Vec<u8>,
    raw_issuer: Vec<u8>,
    serial: Vec<u8>,
    is_authority: bool,
    /// Why its key may not sign certificates; `None`: it may.
    no_issuer: Option<&'static str>,
    has_names: bool,
    for_servers: bool,
    limits_uris: bool,
    for_clients: bool,
}

/// What a certificate of our own is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To clients, as a server.
    Server,
    /// To servers, as a client.
    Client,
}

impl Facts {
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether what it issued may be trusted.
    pub(super) fn may_issue(&self) -> bool {
        self.no_issuer.is_none()
    }

    /// Whether it names itself as its issuer.
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
        } else if self.not_after.duration_since(now) < SOON {
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

/// Something odd that does not keep the file from being used.
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

/// Reads a certificate.
pub(super) fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, String> {
    let (rest, parsed) = X509Certificate::from_der(certificate.as_ref()).map_err(malformed)?;
    if !rest.is_empty() {
        return Err("something follows it".to_owned());
    }
    let usage = parsed.extended_key_usage().ok().flatten();
    Ok(Facts {
        subject: subject(&parsed.subject().to_string()),
        not_before: timestamp(parsed.validity().not_before),
        not_after: timestamp(parsed.validity().not_after),
        raw_subject: parsed.subject().as_raw().to_vec(),
        raw_issuer: parsed.issuer().as_raw().to_vec(),
        serial: parsed.raw_serial().to_vec(),
        is_authority: parsed.is_ca(),
        no_issuer: no_issuer(&parsed),
        has_names: matches!(parsed.subject_alternative_name(), Ok(Some(_))),
        for_servers: usage
            .as_ref()
            .is_none_or(|usage| usage.value.any || usage.value.server_auth),
        for_clients: usage
            .as_ref()
            .is_none_or(|usage| usage.value.any || usage.value.client_auth),
        limits_uris: limits_uris(&parsed),
    })
}

/// What the parser stumbled over; it names what it looked for, not why that is wrong.
fn malformed(error: x509_parser::nom::Err<X509Error>) -> String {
    match X509Error::from(error) {
        X509Error::Der(_) | X509Error::NomError(_) | X509Error::Generic => {
            "it is not well-formed, or is cut off".to_owned()
        }
        error => format!("it is not well-formed ({error})"),
    }
}

/// Why a certificate is no authority's, by the rules of OpenSSL: the verifier takes any
/// that it is given for one.
fn no_issuer(certificate: &X509Certificate<'_>) -> Option<&'static str> {
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
        // Roots are this old. What it says of itself is all that there is.
        (None, false) if certificate.version() == X509Version::V1 => {
            (certificate.subject().as_raw() != certificate.issuer().as_raw())
                .then_some("it is of X.509 version 1 and was issued by another")
        }
        (None, false) => Some("it has neither basic constraints nor a key usage"),
    }
}

/// Whether there are name constraints for URIs.
fn limits_uris(certificate: &X509Certificate<'_>) -> bool {
    let Ok(Some(constraints)) = certificate.name_constraints() else {
        return false;
    };
    let NameConstraints {
        permitted_subtrees,
        excluded_subtrees,
    } = constraints.value;
    let trees = permitted_subtrees.iter().chain(excluded_subtrees);
    trees
        .flatten()
        .any(|tree| matches!(tree.base, GeneralName::URI(_)))
}

/// What is odd about a certificate of our own and those that come with it.
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
            "clients that check it will not connect",
            "the file begins with the server's own certificate, and those above it follow",
        ),
        Purpose::Client => (
            "the certificate that servers are shown",
            "servers that ask for it will refuse it",
            "the file begins with the balancer's own certificate, and those above it follow",
        ),
    };
    for certificate in std::iter::once(own).chain(above) {
        remarks.extend(certificate.validity(now, consequence));
    }
    if own.is_authority {
        remarks.push(Remark::new(format!("{whose} is an authority's"), first));
    }
    if purpose == Purpose::Server && !own.has_names {
        remarks.push(Remark::new(
            "the server's certificate has no subject alternative names",
            "clients look for its name only there",
        ));
    }
    let (fits, of) = match purpose {
        Purpose::Server => (own.for_servers, "servers"),
        Purpose::Client => (own.for_clients, "clients"),
    };
    if !fits {
        remarks.push(Remark::new(
            format!("{whose} is not for {of} (extended key usage)"),
            consequence,
        ));
    }
    let mut below = own;
    for certificate in above {
        if certificate.raw_subject != below.raw_issuer {
            remarks.push(Remark::new(
                format!(
                    "the certificate of {} did not issue the one before it",
                    certificate.subject
                ),
                "each certificate of the file is followed by its issuer's",
            ));
            break;
        }
        below = certificate;
    }
    remarks
}

/// What is odd about what `ca` names as an authority. `alone`: it may be used all the
/// same, for a server that shows this very certificate.
pub(super) fn authority(authority: &Facts, ca: &str, alone: bool, now: Timestamp) -> Vec<Remark> {
    let consequence = "it is left out: what it issued will be refused";
    let mut remarks: Vec<_> = authority.validity(now, consequence).into_iter().collect();
    if let Some(why) = authority.no_issuer {
        remarks.push(Remark::new(
            format!(
                "the certificate of {} is not an authority's: {why}",
                authority.subject
            ),
            &if alone {
                "it stands for itself only: nothing that its key signed is trusted".to_owned()
            } else {
                format!(
                    "it is ignored: `{ca}` names those who issue certificates, not those who \
                     have one"
                )
            },
        ));
    }
    if authority.limits_uris {
        remarks.push(Remark::new(
            format!("{} has name constraints for URIs", authority.subject),
            "they cannot be checked, so every certificate with a URI that it issued will be refused",
        ));
    }
    remarks
}

/// A revocation list.
#[derive(Debug)]
pub(super) struct Crl<'a> {
    pub(super) issuer: String,
    pub(super) this_update: Timestamp,
    pub(super) next_update: Option<Timestamp>,
    /// Whether it is of X.509 version 2, the only one that has extensions.
    pub(super) is_version_2: bool,
    raw_issuer: Vec<u8>,
    revoked: Vec<Vec<u8>>,
    /// What is signed.
    message: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Crl<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, String> {
        let (rest, parsed) = CertificateRevocationList::from_der(der).map_err(malformed)?;
        if !rest.is_empty() {
            return Err("something follows it".to_owned());
        }
        // The parser keeps no place of the algorithm, which is compared as bytes.
        let (message, algorithm, signature) =
            split_signed(der).ok_or_else(|| "not a signed structure".to_owned())?;
        Ok(Self {
            issuer: subject(&parsed.issuer().to_string()),
            this_update: timestamp(parsed.last_update()),
            next_update: parsed.next_update().map(timestamp),
            is_version_2: parsed.version() == Some(X509Version::V2),
            raw_issuer: parsed.issuer().as_raw().to_vec(),
            revoked: parsed
                .iter_revoked_certificates()
                .map(|revoked| revoked.raw_serial().to_vec())
                .collect(),
            message,
            algorithm,
            signature,
        })
    }

    /// Whether it is a list of what this authority issued, by its name.
    pub(super) fn is_of(&self, authority: &Facts) -> bool {
        self.raw_issuer == authority.raw_subject
    }

    /// Whether it is a list of who issued this certificate, and revokes it.
    pub(super) fn revokes(&self, certificate: &Facts) -> bool {
        self.raw_issuer == certificate.raw_issuer && self.revoked.contains(&certificate.serial)
    }

    /// Whether it carries this authority's signature.
    pub(super) fn is_signed_by(
        &self,
        authority: &CertificateDer<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> bool {
        let Ok((_, authority)) = X509Certificate::from_der(authority.as_ref()) else {
            return false;
        };
        let key = authority.public_key();
        let Some(key_algorithm) = body(key.raw).and_then(|(spki, _)| body(spki)) else {
            return false;
        };
        self.raw_issuer == authority.subject().as_raw()
            && algorithms
                .iter()
                .filter(|algorithm| {
                    algorithm.signature_alg_id().as_ref() == self.algorithm
                        && algorithm.public_key_alg_id().as_ref() == key_algorithm.0
                })
                .any(|algorithm| {
                    algorithm
                        .verify_signature(
                            &key.subject_public_key.data,
                            self.message,
                            self.signature,
                        )
                        .is_ok()
                })
    }
}

/// `SEQUENCE { message, SEQUENCE algorithm, BIT STRING signature }`, as RFC 5280
/// has it for certificates and lists: the message whole, of the others the
/// content.
fn split_signed(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (content, _) = body(der)?;
    let (_, after_message) = body(content)?;
    let message = &content[..content.len() - after_message.len()];
    let (algorithm, after_algorithm) = body(after_message)?;
    let (signature, _) = body(after_algorithm)?;
    // The first byte counts unused bits, of which a signature has none.
    let (0, signature) = signature
        .split_first()
        .map(|(unused, rest)| (*unused, rest))?
    else {
        return None;
    };
    Some((message, algorithm, signature))
}

/// The content of a DER element, and what follows it.
fn body(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// A name without one is still to be told apart in a sentence.
fn subject(name: &str) -> String {
    if name.is_empty() {
        "an empty name".to_owned()
    } else {
        format!("`{name}`")
    }
}

/// Beyond the years that a timestamp has, its bounds do.
fn timestamp(time: ASN1Time) -> Timestamp {
    let seconds = time.timestamp();
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}
