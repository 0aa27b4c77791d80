//! Finds out why a chain does not lead to a configured authority.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use super::{super::issuer_selection::Signatures, Authorities, parse};
use crate::{distinguished_name, trust::issuer_error::IssuerProblem};

/// A certificate of the chain.
struct Link<'a> {
    der: &'a [u8],
    parsed: X509Certificate<'a>,
    /// The subject in canonical form.
    subject: Vec<u8>,
    /// The issuer in canonical form.
    issuer: Vec<u8>,
}

impl<'a> Link<'a> {
    fn parse(der: &'a CertificateDer<'_>) -> Option<Self> {
        let parsed = parse(der)?;
        Some(Self {
            der,
            subject: distinguished_name::canonical(parsed.subject().as_raw()),
            issuer: distinguished_name::canonical(parsed.issuer().as_raw()),
            parsed,
        })
    }

    fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// The SubjectPublicKeyInfo.
    fn key(&self) -> &[u8] {
        self.parsed.public_key().raw
    }
}

/// Returns `None` if an authority issued the chain, or if the reason is not clear.
pub(super) fn problem(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: Authorities<'_>,
    signatures: &mut Signatures<'_>,
) -> Option<IssuerProblem> {
    let own = Link::parse(end_entity)?;
    let above: Vec<_> = intermediates.iter().filter_map(Link::parse).collect();
    wrong_authority(&own, &above, authorities, signatures)
        .or_else(|| wrong_intermediate(&own, &above, signatures))
        .or_else(|| problem_of_path(&own, &above, authorities, signatures))
}

/// Finds a certificate that names an authority as its issuer, but is not signed by it.
fn wrong_authority(
    own: &Link<'_>,
    above: &[Link<'_>],
    authorities: Authorities<'_>,
    signatures: &mut Signatures<'_>,
) -> Option<IssuerProblem> {
    std::iter::once(own).chain(above).find_map(|link| {
        let named = authorities
            .iter()
            .filter(|(one, _)| one.subject == link.issuer);
        let (first, _) = named.clone().next()?;
        let is_wrong = named
            .clone()
            .all(|(_, key)| signatures.is_signed_by(link.der, key) == Some(false));
        is_wrong.then(|| IssuerProblem::WrongSignature {
            intermediate: intermediate_name(link, own),
            issuer: first.subject_text.clone(),
            is_authority: true,
        })
    })
}

/// Finds a certificate that names an intermediate of the chain as its issuer, but is not signed by
/// it.
fn wrong_intermediate(
    own: &Link<'_>,
    above: &[Link<'_>],
    signatures: &mut Signatures<'_>,
) -> Option<IssuerProblem> {
    std::iter::once(own).chain(above).find_map(|link| {
        let named = above.iter().filter(|one| one.subject == link.issuer);
        let first = named.clone().next()?;
        let is_wrong = named
            .clone()
            .all(|one| signatures.is_signed_by(link.der, one.key()) == Some(false));
        is_wrong.then(|| IssuerProblem::WrongSignature {
            intermediate: intermediate_name(link, own),
            issuer: first.parsed.subject().to_string(),
            is_authority: false,
        })
    })
}

/// Follows the names of the issuers. Finds a signature that cannot be verified if they lead to an
/// authority, and otherwise the issuer that is neither sent nor configured.
fn problem_of_path(
    own: &Link<'_>,
    above: &[Link<'_>],
    authorities: Authorities<'_>,
    signatures: &Signatures<'_>,
) -> Option<IssuerProblem> {
    let mut path = vec![own];
    let mut top = own;
    let leads_to_authority = loop {
        if authorities.iter().any(|(one, _)| one.subject == top.issuer) {
            break true;
        }
        // Each step takes one certificate, so that names in a cycle end the search.
        if top.is_self_issued() || path.len() > above.len() {
            break false;
        }
        match above.iter().find(|one| one.subject == top.issuer) {
            Some(next) => top = next,
            None => break false,
        }
        path.push(top);
    };
    if leads_to_authority {
        let unsupported = path.iter().find(|link| !signatures.supports(link.der));
        return unsupported.map(|link| IssuerProblem::UnsupportedSignature {
            intermediate: intermediate_name(link, own),
        });
    }
    if own.is_self_issued() {
        return Some(IssuerProblem::SelfSigned {
            subject: own.parsed.subject().to_string(),
        });
    }
    Some(IssuerProblem::UnknownIssuer {
        issuer: top.parsed.issuer().to_string(),
        authorities: authorities
            .iter()
            .map(|(one, _)| one.subject_text.clone())
            .collect(),
    })
}

/// The name of `link`, unless it is the peer's own certificate.
fn intermediate_name(link: &Link<'_>, own: &Link<'_>) -> Option<String> {
    (!std::ptr::eq(link, own)).then(|| link.parsed.subject().to_string())
}

#[cfg(test)]
mod tests;
