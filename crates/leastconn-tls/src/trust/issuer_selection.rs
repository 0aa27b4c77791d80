//! Selection of the intermediates that are used to build paths.
//!
//! webpki tries every path from the client's certificate to a trust anchor, and the client chooses
//! the intermediates. With a dozen self-made CAs that share a name, there are 200,000 paths, and
//! webpki gives up only after 46 ms of CPU time. Therefore only intermediates that an authority has
//! issued are passed to webpki. Starting from the trust anchors, this module selects each
//! certificate that a trust anchor or a selected issuer signed. A client without the key of a CA
//! cannot create such certificates.
//!
//! Selection only removes certificates. webpki verifies the remaining certificates completely. A
//! mistake in this module can therefore cause a client to be refused, but never to be accepted.
//!
//! The cost is bounded: each certificate is verified successfully at most once, and failed
//! checks use up a budget. Chains with fewer than two intermediates have few paths, so they
//! skip the selection.

mod outline;

use std::borrow::Cow;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor};

use outline::{Outline, PublicKey};

use crate::der::{Reader, SEQUENCE};

/// Budget for failed signature checks of a chain, in units of one P-256 check (about
/// 50 µs). In a chain without certificates of foreign issuers, no check fails.
const MAX_FAILURES: u32 = 16;

/// An issuer that is a trust anchor or is below a trust anchor.
#[derive(Clone, Copy)]
struct Issuer<'a> {
    subject: &'a [u8],
    key_id: Option<&'a [u8]>,
    key: PublicKey<'a>,
}

/// Selects the certificates from which webpki builds paths.
#[derive(Debug)]
pub(super) struct IssuerSelection {
    /// The subject key identifiers of the trust anchors, in the order of the anchors.
    key_ids: Vec<Option<Box<[u8]>>>,
}

impl IssuerSelection {
    pub(super) fn new(authorities: &[CertificateDer<'_>]) -> Self {
        let key_id = |der| Some(Outline::parse(der)?.subject_key_id?.into());
        Self {
            key_ids: authorities.iter().map(|der| key_id(der)).collect(),
        }
    }

    /// Returns the intermediates on paths from `end_entity` to `anchors`, in the order of
    /// `intermediates`. `anchors` must be in the same order as the authorities that were passed to
    /// [`Self::new`]. The anchors' names may be rewritten.
    pub(super) fn select<'a>(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &'a [CertificateDer<'a>],
        anchors: &[TrustAnchor<'_>],
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        failures: &mut Failures,
    ) -> Cow<'a, [CertificateDer<'a>]> {
        if intermediates.len() < 2 {
            return Cow::Borrowed(intermediates);
        }
        let key_ids = self.key_ids.iter().map(Option::as_deref);
        let anchors = anchors.iter().zip(key_ids).filter_map(|(anchor, key_id)| {
            Some(Issuer {
                subject: &anchor.subject,
                key_id,
                key: PublicKey::parse(&anchor.subject_public_key_info)?,
            })
        });
        let signatures = Signatures::new(algorithms, failures);
        Cow::Owned(verified(
            end_entity,
            intermediates,
            anchors.collect(),
            signatures,
        ))
    }
}

/// The intermediates that are on paths from `end_entity` to `issuers` with valid
/// signatures.
fn verified<'a, 'i>(
    end_entity: &'i CertificateDer<'_>,
    intermediates: &'i [CertificateDer<'a>],
    mut issuers: Vec<Issuer<'i>>,
    mut signatures: Signatures<'_>,
) -> Vec<CertificateDer<'a>> {
    let Some(leaf) = Outline::parse(end_entity) else {
        return Vec::new();
    };
    let mut outlines: Vec<Option<Outline<'_>>> = Vec::with_capacity(intermediates.len());
    for (n, der) in intermediates.iter().enumerate() {
        let repeated = intermediates[..n].contains(der) || *der == *end_entity;
        outlines.push((!repeated).then(|| Outline::parse(der)).flatten());
    }
    let needed = reachable(&leaf, &outlines);
    let mut verified = vec![false; outlines.len()];
    let mut kept = vec![false; outlines.len()];
    // Each round tries the issuers that the previous round added.
    let mut tried = 0;
    while tried < issuers.len() {
        let round = tried..issuers.len();
        tried = issuers.len();
        for (n, outline) in outlines.iter().enumerate() {
            let Some(outline) = outline.as_ref().filter(|_| needed[n] && !verified[n]) else {
                continue;
            };
            if !signatures.is_issued_by_any(outline, &issuers[round.clone()]) {
                continue;
            }
            let issuer = Issuer::from(outline);
            verified[n] = true;
            // An issuer with the name of the leaf's issuer must also have signed the leaf.
            // Otherwise webpki would try paths that fail at the leaf.
            kept[n] =
                outline.subject != leaf.issuer || signatures.is_issued_by_any(&leaf, &[issuer]);
            issuers.push(issuer);
        }
    }
    let kept = intermediates.iter().zip(kept).filter(|(_, kept)| *kept);
    kept.map(|(der, _)| der.clone()).collect()
}

impl<'a> From<&Outline<'a>> for Issuer<'a> {
    fn from(outline: &Outline<'a>) -> Self {
        Self {
            subject: outline.subject,
            key_id: outline.subject_key_id,
            key: outline.key,
        }
    }
}

/// Returns for each of `outlines` whether it has the name of an issuer above `leaf`.
fn reachable(leaf: &Outline<'_>, outlines: &[Option<Outline<'_>>]) -> Vec<bool> {
    let mut reached = vec![false; outlines.len()];
    let mut below = vec![leaf.issuer];
    while let Some(issuer) = below.pop() {
        for (reached, outline) in reached.iter_mut().zip(outlines) {
            if let Some(outline) = outline
                && !*reached
                && outline.subject == issuer
            {
                *reached = true;
                below.push(outline.issuer);
            }
        }
    }
    reached
}

/// The failed signature checks of a chain, which use up its budget.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Cost of the failed checks so far, in units of one P-256 check.
    spent: u32,
    /// Checks that failed. They are not repeated when the chain is verified a second time
    /// with rewritten names.
    known: Vec<Failure>,
}

#[derive(Debug)]
struct Failure {
    signature: Box<[u8]>,
    key: Box<[u8]>,
}

/// Checks signatures until the budget for failures is used up.
pub(super) struct Signatures<'a> {
    algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    failures: &'a mut Failures,
}

impl<'a> Signatures<'a> {
    pub(super) const fn new(
        algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
        failures: &'a mut Failures,
    ) -> Self {
        Self {
            algorithms,
            failures,
        }
    }
}

impl Signatures<'_> {
    /// Whether `certificate` is signed with the key of `spki`, a SubjectPublicKeyInfo. Both are in
    /// DER.
    pub(super) fn is_signed_by(&mut self, certificate: &[u8], spki: &[u8]) -> bool {
        let outline = Outline::parse(certificate);
        let key = Reader(spki).content(SEQUENCE).and_then(PublicKey::parse);
        match (outline, key) {
            (Some(outline), Some(key)) => self.is_issued_by(&outline, &key),
            _ => false,
        }
    }

    /// Whether one of `issuers` signed `issued`. Issuers that have the authority key
    /// identifier of `issued` are tried first.
    fn is_issued_by_any(&mut self, issued: &Outline<'_>, issuers: &[Issuer<'_>]) -> bool {
        let named = issuers
            .iter()
            .filter(|issuer| issuer.subject == issued.issuer);
        let is_likely = |issuer: &&Issuer<'_>| {
            issued.authority_key_id.is_some() && issued.authority_key_id == issuer.key_id
        };
        let (likely, others): (Vec<&Issuer<'_>>, Vec<&Issuer<'_>>) = named.partition(is_likely);
        let mut all = likely.into_iter().chain(others);
        all.any(|issuer| self.is_issued_by(issued, &issuer.key))
    }

    fn is_issued_by(&mut self, issued: &Outline<'_>, key: &PublicKey<'_>) -> bool {
        let Failures { spent, known } = &mut *self.failures;
        let mut failed = known.iter();
        if failed.any(|one| *one.signature == *issued.signature && *one.key == *key.bits) {
            return false;
        }
        if *spent >= MAX_FAILURES {
            return false;
        }
        let algorithm = self.algorithms.iter().find(|algorithm| {
            algorithm.signature_alg_id().as_ref() == issued.signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == key.algorithm
        });
        let Some(algorithm) = algorithm else {
            return false;
        };
        let verified = algorithm.verify_signature(key.bits, issued.signed, issued.signature);
        if verified.is_err() {
            *spent += cost(key, issued.signed);
            known.push(Failure {
                signature: issued.signature.into(),
                key: key.bits.into(),
            });
        }
        verified.is_ok()
    }
}

/// The cost of a check with `key`, in units of one P-256 check.
fn cost(key: &PublicKey<'_>, signed: &[u8]) -> u32 {
    // The length of an uncompressed point, or of a modulus with its encoding.
    let by_key = match key.bits.len() {
        // Ed25519, P-256.
        0..=66 => 1,
        // P-384.
        67..=98 => 4,
        // P-521.
        99..=134 => 6,
        // RSA of up to 3072 bits, of up to 4096 bits, and longer.
        135..=400 => 1,
        401..=600 => 2,
        _ => 6,
    };
    by_key + u32::try_from(signed.len() / HASHED_BYTES).unwrap_or(MAX_FAILURES)
}

/// Number of bytes that can be hashed in the time of one P-256 check.
const HASHED_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests;
