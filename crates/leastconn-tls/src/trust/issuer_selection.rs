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
//! The cost is bounded: the issuer of each intermediate is found at most once, by one successful
//! check, and failed checks use up a budget; see [`signatures`]. Chains with fewer than two
//! intermediates have few paths, so they skip the selection.

mod outline;
mod signatures;

use std::borrow::Cow;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor};

use outline::{Outline, PublicKey};
pub(super) use signatures::{Failures, Signatures};

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
        let signatures = Signatures::for_paths(algorithms, failures);
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

#[cfg(test)]
mod tests;
