//! Finds the certificate that caused a rustls-webpki error. The error itself does not identify a
//! certificate.

mod issuer;

use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::{Validity, X509Certificate, X509CertificateParser},
    nom::Parser as _,
    prelude::FromDer,
    x509::SubjectPublicKeyInfo,
};

use super::{
    ChainError, IssuerError, PathError, issuer_selection::Signatures, path::AnchorLimits, seconds,
    webpki_error,
};
use crate::{
    crl::display_name,
    distinguished_name,
    x509::{constraints::Constraints, extensions::unknown_critical, key},
};

/// The limits and the SubjectPublicKeyInfo of each authority.
type Authorities<'a> = &'a [(&'a AnchorLimits, &'a [u8])];

/// Explains why a chain has no path with valid signatures and dates.
pub(super) fn explain(
    error: &webpki::Error,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: Authorities<'_>,
    signatures: &mut Signatures<'_>,
) -> ChainError {
    use webpki::Error as E;
    match error {
        E::CertExpired { not_after, .. } => {
            let has_date = |dates: &Validity| dates.not_after.timestamp() == seconds(*not_after);
            return dates(error, end_entity, intermediates, has_date);
        }
        E::CertNotValidYet { not_before, .. } => {
            let has_date = |dates: &Validity| dates.not_before.timestamp() == seconds(*not_before);
            return dates(error, end_entity, intermediates, has_date);
        }
        _ => {}
    }
    let chain: Vec<_> = std::iter::once(end_entity)
        .chain(intermediates)
        .filter_map(parse)
        .collect();
    if let Some(error) = path_error(error, &chain, authorities) {
        return ChainError::Path(error);
    }
    let is_issuer_unknown = matches!(
        error,
        E::UnknownIssuer
            | E::InvalidSignatureForPublicKey
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            // webpki reports these faults before it verifies the signature. A forged certificate
            // should be reported as such.
            | E::CaUsedAsEndEntity
            | E::UnsupportedCertVersion
    );
    let error = webpki_error::to_rustls(error);
    let problem = is_issuer_unknown
        .then(|| issuer::problem(end_entity, intermediates, authorities, signatures));
    match problem.flatten() {
        Some(problem) => ChainError::Issuer(IssuerError { problem, error }),
        None => error.into(),
    }
}

/// Parses a certificate without the contents of its extensions: the certificate is not
/// verified yet, and parsing tens of thousands of names takes milliseconds.
fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    let (_, parsed) = parser.parse(der).ok()?;
    Some(parsed)
}

/// The error for a certificate that has expired or is not valid yet. If an intermediate
/// caused the error, the result contains its name.
fn dates(
    error: &webpki::Error,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    has_date: impl Fn(&Validity) -> bool,
) -> ChainError {
    let name_if_cause = |der: &CertificateDer<'_>| {
        let parsed = parse(der)?;
        has_date(parsed.validity()).then(|| display_name(parsed.subject()))
    };
    let error = webpki_error::to_rustls(error);
    if name_if_cause(end_entity).is_some() {
        return error.into();
    }
    match intermediates.iter().find_map(name_if_cause) {
        Some(name) => ChainError::IssuerDates {
            name,
            is_authority: false,
            error,
        },
        None => error.into(),
    }
}

fn path_error<'a>(
    error: &webpki::Error,
    chain: &'a [X509Certificate<'a>],
    authorities: Authorities<'a>,
) -> Option<PathError> {
    use webpki::Error as E;
    match error {
        E::UnsupportedCriticalExtension => chain.iter().find_map(|one| {
            Some(PathError::Critical {
                name: display_name(one.subject()),
                oid: unknown_critical(one)?,
            })
        }),
        E::NameConstraintViolation => constraint(&issuers(chain, authorities), chain),
        E::UnknownIssuer
        | E::InvalidSignatureForPublicKey
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            issuer_key(&issuers(chain, authorities))
        }
        _ => None,
    }
}

/// A certificate with the name of an issuer in the chain.
enum Issuer<'a> {
    Intermediate(&'a X509Certificate<'a>),
    /// The limits and the SubjectPublicKeyInfo of an authority.
    Authority(&'a AnchorLimits, &'a [u8]),
}

impl Issuer<'_> {
    /// The subject in canonical form.
    fn subject(&self) -> Vec<u8> {
        match self {
            Self::Intermediate(one) => distinguished_name::canonical(one.subject().as_raw()),
            Self::Authority(one, _) => one.subject.clone(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Intermediate(one) => display_name(one.subject()),
            Self::Authority(one, _) => one.name.clone(),
        }
    }

    fn constraints(&self) -> Option<Constraints> {
        match self {
            Self::Intermediate(one) => Constraints::of(one),
            Self::Authority(one, _) => one.constraints.clone(),
        }
    }

    fn unsupported_key(&self) -> Option<String> {
        match self {
            Self::Intermediate(one) => key::unsupported(one.public_key()),
            Self::Authority(_, key) => {
                let (_, key) = SubjectPublicKeyInfo::from_der(key).ok()?;
                key::unsupported(&key)
            }
        }
    }
}

/// All certificates with the name of an issuer above the peer's certificate: first the
/// intermediates, from the bottom up, then the authorities.
fn issuers<'a>(chain: &'a [X509Certificate<'a>], authorities: Authorities<'a>) -> Vec<Issuer<'a>> {
    let Some((own, intermediates)) = chain.split_first() else {
        return Vec::new();
    };
    let mut subjects = vec![distinguished_name::canonical(own.issuer().as_raw())];
    let mut remaining: Vec<_> = intermediates.iter().collect();
    let mut issuers = Vec::new();
    let mut next = 0;
    while let Some(subject) = subjects.get(next).cloned() {
        next += 1;
        let (found, others): (Vec<_>, Vec<_>) = remaining
            .into_iter()
            .partition(|one| distinguished_name::canonical(one.subject().as_raw()) == subject);
        remaining = others;
        for one in found {
            let issuer = distinguished_name::canonical(one.issuer().as_raw());
            if !subjects.contains(&issuer) {
                subjects.push(issuer);
            }
            issuers.push(Issuer::Intermediate(one));
        }
    }
    let authorities = authorities.iter();
    let authorities = authorities.filter(|(one, _)| subjects.contains(&one.subject));
    issuers.extend(authorities.map(|(one, key)| Issuer::Authority(one, key)));
    issuers
}

/// The error for an issuer with an unsupported key. Returns `None` if an issuer with the
/// same name has a supported key.
fn issuer_key(issuers: &[Issuer<'_>]) -> Option<PathError> {
    issuers.iter().find_map(|one| {
        let kind = one.unsupported_key()?;
        let mut same_name = issuers
            .iter()
            .filter(|other| other.subject() == one.subject());
        let is_cause = same_name.all(|other| other.unsupported_key().is_some());
        is_cause.then(|| PathError::IssuerKey {
            name: one.name(),
            is_authority: matches!(one, Issuer::Authority(..)),
            kind,
        })
    })
}

/// The error for the issuer whose constraints most likely forbid a name in the chain.
fn constraint(issuers: &[Issuer<'_>], chain: &[X509Certificate<'_>]) -> Option<PathError> {
    let mut candidates = Vec::new();
    for issuer in issuers {
        let Some(constraints) = issuer.constraints() else {
            continue;
        };
        let forbidden = chain.iter().find_map(|one| constraints.forbids_other(one));
        for kind in constraints.kinds() {
            // Skip constraints that were removed before rustls-webpki saw the certificate.
            if !kind.is_checked_here() {
                let is_present = chain.iter().any(|one| kind.is_in(one));
                // If constraints of a kind cannot be checked, they forbid every name of
                // that kind.
                let is_cause = forbidden == Some(*kind) || (is_present && !kind.is_checked());
                let order = (!is_cause, !is_present, kind.is_checked());
                candidates.push((order, issuer.name(), *kind));
            }
        }
    }
    let (_, authority, kind) = candidates.into_iter().min_by_key(|(order, ..)| *order)?;
    Some(PathError::Constraint {
        authority,
        kind: kind.name(),
        is_checked: kind.is_checked(),
    })
}
