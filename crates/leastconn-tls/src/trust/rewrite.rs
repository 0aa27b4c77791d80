//! Rewriting of certificates, so that rustls-webpki treats them as RFC 5280 requires.
//!
//! rustls-webpki compares names byte by byte and refuses every critical extension that it
//! does not know. It also refuses a name if it cannot check the constraints for this kind of
//! name. A chain that is refused for such a reason is verified a second time in a rewritten
//! form:
//!
//! - names are in canonical form, so that names that are equal under RFC 5280, section 7.1, are
//!   equal byte by byte;
//! - extensions that can be ignored, because no certificate policy is required, are removed;
//! - name constraints that [`crate::x509::constraints`] checks are removed.
//!
//! Signatures are verified over the original content: wrappers around the signature algorithms
//! replace a certificate's rewritten content with its original content. Different certificates must
//! not have the same rewritten content. Otherwise a certificate could be accepted with the
//! signature of another certificate.

use std::borrow::Cow;

use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
};
use x509_parser::{
    certificate::{X509Certificate, X509CertificateParser},
    der_parser::asn1_rs::{Any, FromDer as _, Tag},
    nom::Parser as _,
};

use crate::{
    der, distinguished_name,
    x509::{constraints::Constraints, extensions::needs_no_action},
};

const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;
const EXTENSIONS: u8 = 0xa3;

const NAME_CONSTRAINTS: &str = "2.5.29.30";

/// Returns the certificate in a form that rustls-webpki can parse. The certificate is rewritten
/// only if necessary. Its key stays the same, so the result can be used to verify signatures made
/// with that key.
pub(crate) fn parseable<'a>(certificate: &'a CertificateDer<'_>) -> Cow<'a, CertificateDer<'a>> {
    if webpki::EndEntityCert::try_from(certificate).is_ok() {
        return Cow::Borrowed(certificate);
    }
    match rewrite(certificate) {
        Some((_, whole)) => Cow::Owned(CertificateDer::from(whole)),
        None => Cow::Borrowed(certificate),
    }
}

/// A certificate and its rewritten form.
#[derive(Debug)]
struct Pair {
    original: CertificateDer<'static>,
    /// The signed part of the original (TBSCertificate).
    original_content: Vec<u8>,
    /// The content that replaces it in the rewritten certificate.
    rewritten_content: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Rewritten {
    /// The certificates, the peer's own first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The original and rewritten contents, in the order of `chain`.
    pairs: Vec<Pair>,
}

impl Rewritten {
    /// Rewrites a chain. Returns `None` if rewriting cannot remedy `error`, or if a certificate
    /// cannot be rewritten.
    pub(super) fn for_error(
        error: &webpki::Error,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Self> {
        use webpki::Error as E;
        match error {
            E::UnknownIssuer | E::UnsupportedCriticalExtension | E::NameConstraintViolation => {
                Self::new(end_entity, intermediates)
            }
            _ => None,
        }
    }

    fn new(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<Self> {
        let mut pairs: Vec<Pair> = Vec::new();
        let mut chain = Vec::new();
        for der in std::iter::once(end_entity).chain(intermediates) {
            let original_content = signed_part(der)?.to_vec();
            let (rewritten_content, whole) = rewrite(der)?;
            let is_ambiguous = |known: &Pair| {
                known.rewritten_content == rewritten_content
                    && known.original_content != original_content
            };
            if pairs.iter().any(is_ambiguous) {
                return None;
            }
            chain.push(CertificateDer::from(whole));
            pairs.push(Pair {
                original: der.clone().into_owned(),
                original_content,
                rewritten_content,
            });
        }
        Some(Self { chain, pairs })
    }

    /// The original of a certificate in [`Self::chain`].
    pub(super) fn original(
        &self,
        rewritten: &CertificateDer<'_>,
    ) -> Option<&CertificateDer<'static>> {
        let position = self.chain.iter().position(|der| der == rewritten)?;
        Some(&self.pairs[position].original)
    }

    /// Wraps `algorithms` so that they verify the original content.
    pub(super) fn algorithms<'a>(
        &'a self,
        algorithms: &[&'static dyn SignatureVerificationAlgorithm],
    ) -> Vec<OverOriginal<'a>> {
        algorithms
            .iter()
            .map(|&algorithm| OverOriginal {
                algorithm,
                pairs: &self.pairs,
            })
            .collect()
    }
}

/// A signature algorithm that verifies the original content of rewritten certificates.
#[derive(Debug)]
pub(super) struct OverOriginal<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    pairs: &'a [Pair],
}

impl SignatureVerificationAlgorithm for OverOriginal<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let mut pairs = self.pairs.iter();
        let pair = pairs.find(|pair| pair.rewritten_content == message);
        // webpki verifies only signatures of certificates in this chain.
        let pair = pair.ok_or(InvalidSignature)?;
        self.algorithm
            .verify_signature(public_key, &pair.original_content, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

/// Splits `der` after its first element. Returns the encoded element, the parsed element
/// and the remaining bytes.
fn split_element(der: &[u8]) -> Option<(&[u8], Any<'_>, &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    Some((&der[..der.len() - rest.len()], any, rest))
}

/// The signed part of a certificate (TBSCertificate), with its header.
fn signed_part(certificate: &[u8]) -> Option<&[u8]> {
    let (_, whole, rest) = split_element(certificate)?;
    let (content, ..) = split_element(whole.data)?;
    rest.is_empty().then_some(content)
}

/// The rewritten TBSCertificate, and the whole certificate that contains it.
fn rewrite(certificate: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    // Do not parse the contents of extensions: the certificate is not verified yet, and
    // parsing tens of thousands of names takes milliseconds.
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    let (rest, parsed) = parser.parse(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let (_, whole, _) = split_element(certificate)?;
    let (_, content, signature) = split_element(whole.data)?;
    let mut parts = Vec::new();
    let mut from = content.data;
    while !from.is_empty() {
        let (bytes, part, rest) = split_element(from)?;
        parts.push((bytes, part));
        from = rest;
    }
    // Fields of a TBSCertificate: version, serial number, algorithm, issuer, validity,
    // subject, key, then optional fields.
    let mut out = Vec::new();
    for (position, (bytes, part)) in parts.iter().enumerate() {
        match position {
            3 | 5 => out.extend(distinguished_name::canonical(bytes)),
            7.. if bytes.first() == Some(&EXTENSIONS) => {
                out.extend(extensions(part.data, &parsed)?);
            }
            _ => out.extend_from_slice(bytes),
        }
    }
    let content = der::encode(SEQUENCE, &out);
    let whole = der::encode(SEQUENCE, &[&content[..], signature].concat());
    Some((content, whole))
}

/// The extensions with their tag, except the extensions that rewriting removes.
fn extensions(tagged: &[u8], parsed: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let (_, list, _) = split_element(tagged)?;
    let constraints = Constraints::of(parsed);
    let mut kept = Vec::new();
    let mut from = list.data;
    let mut known = parsed.extensions().iter();
    while !from.is_empty() {
        let (bytes, extension, rest) = split_element(from)?;
        from = rest;
        let known = known.next()?;
        let oid = known.oid.to_id_string();
        if needs_no_action(&oid, known.value) {
            continue;
        }
        match &constraints {
            Some(constraints) if oid == NAME_CONSTRAINTS => {
                if let Some(value) = constraints.rest_as_extension() {
                    // Keep OID and criticality, replace the value.
                    let (_, _, after_oid) = split_element(extension.data)?;
                    let (boolean, any, _) = split_element(after_oid)?;
                    let head = extension.data.len() - after_oid.len();
                    let is_boolean = any.tag() == Tag::Boolean;
                    let head = head + if is_boolean { boolean.len() } else { 0 };
                    let value = der::encode(OCTET_STRING, &value);
                    let changed = [&extension.data[..head], &value].concat();
                    kept.extend(der::encode(SEQUENCE, &changed));
                }
            }
            _ => kept.extend_from_slice(bytes),
        }
    }
    Some(der::encode(EXTENSIONS, &der::encode(SEQUENCE, &kept)))
}
