//! Rewrites certificates so that rustls-webpki processes them as RFC 5280 requires.
//!
//! rustls-webpki compares names byte by byte, refuses unknown critical extensions, and
//! refuses names of kinds whose constraints it does not check. So a chain that it refuses
//! is verified once more after rewriting:
//!
//! - with names in one canonical form, so that names that are equal by section 7.1 are
//!   equal byte by byte;
//! - without extensions that need no action as long as no policy is required;
//! - without name constraints that [`crate::x509::constraints`] checks.
//!
//! Signatures are verified over the original bytes: the signature algorithms are wrapped,
//! and replace the content of a rewritten certificate by the original content. Each
//! rewritten certificate belongs to exactly one original, otherwise nothing is rewritten.
//! So a certificate can never be accepted on the signature of another one.

use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
};
use x509_parser::{
    certificate::{X509Certificate, X509CertificateParser},
    der_parser::asn1_rs::{Any, FromDer as _, Tag},
    extensions::X509Extension,
    nom::Parser as _,
};

use crate::{
    names,
    x509::{
        constraints::Constraints,
        extensions::{NO_ACTION, POLICY_CONSTRAINTS, needs_no_action},
    },
};

const SEQUENCE: u8 = 0x30;
const EXTENSIONS: u8 = 0xa3;

/// Returns a certificate with the same key that rustls-webpki can parse, for verifying
/// signatures of that key. `None` if it can parse the certificate itself.
pub(crate) fn for_signature(certificate: &CertificateDer<'_>) -> Option<CertificateDer<'static>> {
    if webpki::EndEntityCert::try_from(certificate).is_ok() {
        return None;
    }
    let (_, whole) = rewrite(certificate)?;
    Some(CertificateDer::from(whole))
}

/// A certificate in both forms.
#[derive(Debug)]
struct Both {
    original: CertificateDer<'static>,
    /// The signed part of the original certificate.
    original_content: Vec<u8>,
    rewritten_content: Vec<u8>,
}

/// A rewritten chain.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// In the order of the chain, the peer's certificate first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    both: Vec<Both>,
}

impl Rewritten {
    /// Returns `None` if the chain cannot be rewritten.
    pub(crate) fn new(
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Self> {
        let mut both: Vec<Both> = Vec::new();
        let mut chain = Vec::new();
        for der in std::iter::once(end_entity).chain(intermediates) {
            let original_content = content_of(der)?.to_vec();
            let (rewritten_content, whole) = rewrite(der)?;
            let is_other = |known: &Both| {
                known.rewritten_content == rewritten_content
                    && known.original_content != original_content
            };
            if both.iter().any(is_other) {
                return None;
            }
            chain.push(CertificateDer::from(whole));
            both.push(Both {
                original: der.clone().into_owned(),
                original_content,
                rewritten_content,
            });
        }
        Some(Self { chain, both })
    }

    /// The original of a rewritten certificate.
    pub(crate) fn original(
        &self,
        rewritten: &CertificateDer<'_>,
    ) -> Option<&CertificateDer<'static>> {
        let position = self.chain.iter().position(|der| der == rewritten)?;
        Some(&self.both[position].original)
    }

    /// Signature algorithms that verify the original content.
    pub(crate) fn algorithms<'a>(
        &'a self,
        all: &[&'static dyn SignatureVerificationAlgorithm],
    ) -> Vec<OverOriginal<'a>> {
        all.iter()
            .map(|&algorithm| OverOriginal {
                algorithm,
                both: &self.both,
            })
            .collect()
    }
}

/// A signature algorithm over the original content of rewritten certificates.
#[derive(Debug)]
pub(crate) struct OverOriginal<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    both: &'a [Both],
}

impl SignatureVerificationAlgorithm for OverOriginal<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let mut both = self.both.iter();
        let known = both.find(|known| known.rewritten_content == message);
        // Nothing else is verified with it.
        let original = known.ok_or(InvalidSignature)?;
        self.algorithm
            .verify_signature(public_key, &original.original_content, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

/// The first element of `der` with its tag, and the rest.
fn element(der: &[u8]) -> Option<(&[u8], Any<'_>, &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    Some((&der[..der.len() - rest.len()], any, rest))
}

/// The signed part of a certificate, with its tag.
fn content_of(certificate: &[u8]) -> Option<&[u8]> {
    let (_, whole, rest) = element(certificate)?;
    let (content, ..) = element(whole.data)?;
    rest.is_empty().then_some(content)
}

/// The rewritten content, and the certificate around it.
fn rewrite(certificate: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    // Skip the contents of extensions: tens of thousands of names take milliseconds to
    // parse, and the certificate is not trusted yet.
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    let (rest, parsed) = parser.parse(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let (_, whole, _) = element(certificate)?;
    let (_, content, signature) = element(whole.data)?;
    let mut parts = Vec::new();
    let mut from = content.data;
    while !from.is_empty() {
        let (bytes, part, rest) = element(from)?;
        parts.push((bytes, part));
        from = rest;
    }
    // Version, serial number, algorithm, issuer, validity, subject, key, and so on.
    let mut out = Vec::new();
    for (position, (bytes, part)) in parts.iter().enumerate() {
        match position {
            3 | 5 => out.extend(names::canonical(bytes)),
            7.. if bytes.first() == Some(&EXTENSIONS) => {
                out.extend(extensions(part.data, &parsed)?);
            }
            _ => out.extend_from_slice(bytes),
        }
    }
    let content = names::tlv(SEQUENCE, &out);
    let whole = names::tlv(SEQUENCE, &[&content[..], signature].concat());
    Some((content, whole))
}

fn extensions(tagged: &[u8], parsed: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let (_, list, _) = element(tagged)?;
    let constraints = Constraints::of(parsed);
    let mut kept = Vec::new();
    let mut from = list.data;
    let mut known = parsed.extensions().iter();
    while !from.is_empty() {
        let (bytes, extension, rest) = element(from)?;
        from = rest;
        let known = known.next()?;
        let oid = known.oid.to_id_string();
        if oid == POLICY_CONSTRAINTS {
            let (_, parsed) = X509Extension::from_der(bytes).ok()?;
            if needs_no_action(&oid, parsed.parsed_extension()) {
                continue;
            }
        } else if NO_ACTION.contains(&&*oid) {
            continue;
        }
        match &constraints {
            Some(constraints) if oid == "2.5.29.30" => {
                if let Some(value) = constraints.rest_as_extension() {
                    // Keep OID and criticality, replace the value.
                    let (_, _, after_oid) = element(extension.data)?;
                    let (boolean, any, _) = element(after_oid)?;
                    let head = extension.data.len() - after_oid.len();
                    let is_boolean = any.tag() == Tag::Boolean;
                    let head = head + if is_boolean { boolean.len() } else { 0 };
                    let value = names::tlv(0x04, &value);
                    let changed = [&extension.data[..head], &value].concat();
                    kept.extend(names::tlv(SEQUENCE, &changed));
                }
            }
            _ => kept.extend_from_slice(bytes),
        }
    }
    Some(names::tlv(EXTENSIONS, &names::tlv(SEQUENCE, &kept)))
}
