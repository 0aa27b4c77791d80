//! Requirements of RFC 5280 for certification paths that rustls-webpki does not check:
//! limits of trust anchors, key usage, name constraints of more kinds, and unsupported
//! keys.

pub(crate) mod rewrite;

use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, x509::SubjectPublicKeyInfo};

use super::usage::Usage;
use crate::{
    names,
    x509::{
        constraints::{Constraints, NameKind},
        extensions::unknown_critical,
        key,
    },
};

/// Why a path with valid signatures and dates is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The peer's key is of a kind that no handshake accepts.
    Key(String),
    /// The peer's key usage lacks digitalSignature.
    NoDigitalSignature,
    /// A certificate above the peer's has a key usage without keyCertSign.
    NoCertSign { name: String },
    /// There are more certificates below an authority than it allows.
    PathLength {
        authority: String,
        /// How many it allows between itself and the peer's.
        limit: u32,
    },
    /// An authority's extended key usage does not include the peer's.
    Purpose { authority: String },
    /// A name is not allowed by an authority's name constraints.
    Constraint {
        authority: String,
        kind: &'static str,
        /// Whether constraints of this kind can be checked.
        is_checked: bool,
    },
    /// The issuer's key is of a kind for which no signature is accepted.
    IssuerKey {
        name: String,
        /// Whether it is one of the configured CAs.
        is_authority: bool,
        kind: String,
    },
    /// A certificate has a critical extension that is not processed.
    Critical { name: String, oid: String },
}

impl std::error::Error for PathError {}

impl std::fmt::Display for PathError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(kind) => write!(
                f,
                "the certificate has {kind}, which is not accepted: use {}",
                key::ACCEPTED
            ),
            Self::NoDigitalSignature => f.write_str(
                "the certificate's key usage lacks digitalSignature, which a client needs",
            ),
            Self::NoCertSign { name } => write!(
                f,
                "{name}, above the certificate, must not issue any: its key usage lacks keyCertSign"
            ),
            Self::PathLength { authority, limit } => write!(
                f,
                "the authority {authority} allows {limit} intermediates below it (path length), \
                 and there are more"
            ),
            Self::Purpose { authority } => write!(
                f,
                "the extended key usage of the authority {authority} does not allow this use"
            ),
            Self::Constraint {
                authority,
                kind,
                is_checked: true,
            } => write!(
                f,
                "the name constraints of {authority} do not allow the {kind} of a certificate \
                 below it"
            ),
            Self::Constraint {
                authority, kind, ..
            } => write!(
                f,
                "{authority} has name constraints for {kind}, which cannot be checked: every \
                 certificate with such a name is refused"
            ),
            Self::IssuerKey {
                name,
                is_authority,
                kind,
            } => write!(
                f,
                "{} {name}, above the certificate, has {kind}, which is not accepted: use {}",
                if *is_authority {
                    "the authority"
                } else {
                    "the intermediate"
                },
                key::ACCEPTED
            ),
            Self::Critical { name, oid } => write!(
                f,
                "the certificate of {name} has an extension that is marked critical and not \
                 supported: {oid}"
            ),
        }
    }
}

/// Limits of one trust anchor.
#[derive(Debug)]
pub(super) struct AnchorLimits {
    name: String,
    /// Its subject in canonical form.
    subject: Vec<u8>,
    path_length: Option<u32>,
    allows_usage: bool,
    constraints: Option<Constraints>,
}

impl AnchorLimits {
    pub(super) fn of(name: &str, authority: &X509Certificate<'_>, usage: Usage) -> Self {
        let basic = authority.basic_constraints().ok().flatten();
        Self {
            name: name.to_owned(),
            subject: names::canonical(authority.subject().as_raw()),
            path_length: basic.and_then(|basic| basic.value.path_len_constraint),
            allows_usage: allows_usage(authority, usage),
            constraints: Constraints::of(authority),
        }
    }

    /// The anchor for rustls-webpki, without what is checked here, and with a canonical
    /// name if the chain has canonical names.
    pub(super) fn anchor(
        &self,
        anchor: &TrustAnchor<'static>,
        is_canonical: bool,
    ) -> TrustAnchor<'static> {
        let subject = if is_canonical {
            let whole = names::tlv(0x30, &anchor.subject);
            let rdns = names::canonical_rdns(&whole);
            rdns.map_or_else(|| anchor.subject.to_vec(), |rdns| rdns.concat())
        } else {
            anchor.subject.to_vec()
        };
        let own = self.constraints.as_ref();
        TrustAnchor {
            subject: subject.into(),
            subject_public_key_info: anchor.subject_public_key_info.clone(),
            name_constraints: match own {
                Some(own) => own.rest.clone().map(Into::into),
                None => anchor.name_constraints.clone(),
            },
        }
    }
}

pub(crate) fn allows_usage(authority: &X509Certificate<'_>, usage: Usage) -> bool {
    match authority.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(allowed)) => {
            let allowed = allowed.value;
            allowed.any
                || match usage {
                    Usage::Client => allowed.client_auth,
                    Usage::Server => allowed.server_auth,
                }
        }
        Err(_) => false,
    }
}

/// Checks a path: the peer's certificate, then its issuers, up to a CA.
pub(super) fn check(
    path: &[X509Certificate<'_>],
    authority: &AnchorLimits,
    usage: Usage,
) -> Result<(), PathError> {
    let Some((own, above)) = path.split_first() else {
        return Ok(());
    };
    if !authority.allows_usage {
        return Err(PathError::Purpose {
            authority: authority.name.clone(),
        });
    }
    // Self-issued certificates do not count.
    let between = above.iter().filter(|one| {
        names::canonical(one.subject().as_raw()) != names::canonical(one.issuer().as_raw())
    });
    let between = u32::try_from(between.count()).unwrap_or(u32::MAX);
    if let Some(limit) = authority.path_length.filter(|limit| between > *limit) {
        return Err(PathError::PathLength {
            authority: authority.name.clone(),
            limit,
        });
    }
    for one in above {
        let may_sign = match one.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        };
        if !may_sign {
            return Err(PathError::NoCertSign {
                name: crate::crl::display_name(one.subject()),
            });
        }
    }
    check_constraints(path, authority)?;
    check_own(own, usage)
}

/// Checks the peer's certificate.
pub(super) fn check_own(own: &X509Certificate<'_>, usage: Usage) -> Result<(), PathError> {
    if usage == Usage::Client {
        let may_sign = match own.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.digital_signature()),
            Err(_) => false,
        };
        if !may_sign {
            return Err(PathError::NoDigitalSignature);
        }
    }
    match key::unsupported(own.public_key()) {
        Some(kind) => Err(PathError::Key(kind)),
        None => Ok(()),
    }
}

fn check_constraints(
    path: &[X509Certificate<'_>],
    authority: &AnchorLimits,
) -> Result<(), PathError> {
    let forbidden = |constraints: &Constraints, below: &[X509Certificate<'_>]| {
        below.iter().find_map(|one| constraints.forbids(one))
    };
    let error = |authority: &str, kind: NameKind| PathError::Constraint {
        authority: authority.to_owned(),
        kind: kind.name(),
        is_checked: true,
    };
    let forbidden = |constraints: &Constraints, below: &[X509Certificate<'_>]| {
        let common_name = || constraints.forbids_common_name(below.first()?);
        forbidden(constraints, below).or_else(common_name)
    };
    if let Some(constraints) = &authority.constraints
        && let Some(kind) = forbidden(constraints, path)
    {
        return Err(error(&authority.name, kind));
    }
    for (position, one) in path.iter().enumerate().skip(1) {
        if let Some(constraints) = Constraints::of(one)
            && let Some(kind) = forbidden(&constraints, &path[..position])
        {
            return Err(error(&crate::crl::display_name(one.subject()), kind));
        }
    }
    Ok(())
}

/// A possible issuer, by name.
enum Above<'a> {
    Sent(&'a X509Certificate<'a>),
    Authority(&'a AnchorLimits, &'a [u8]),
}

impl Above<'_> {
    fn subject(&self) -> Vec<u8> {
        match self {
            Self::Sent(one) => names::canonical(one.subject().as_raw()),
            Self::Authority(one, _) => one.subject.clone(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Sent(one) => crate::crl::display_name(one.subject()),
            Self::Authority(one, _) => one.name.clone(),
        }
    }

    fn constraints(&self) -> Option<Constraints> {
        match self {
            Self::Sent(one) => Constraints::of(one),
            Self::Authority(one, _) => one.constraints.clone(),
        }
    }

    fn unsupported_key(&self) -> Option<String> {
        match self {
            Self::Sent(one) => key::unsupported(one.public_key()),
            Self::Authority(_, key) => {
                let (_, key) = SubjectPublicKeyInfo::from_der(key).ok()?;
                key::unsupported(&key)
            }
        }
    }
}

/// The possible issuers of a chain, by name, starting with that of the peer's certificate.
/// Each of `authorities` has its SubjectPublicKeyInfo.
fn issuers<'a>(
    chain: &'a [X509Certificate<'a>],
    authorities: impl Iterator<Item = (&'a AnchorLimits, &'a [u8])>,
) -> Vec<Above<'a>> {
    let Some((own, sent)) = chain.split_first() else {
        return Vec::new();
    };
    let mut subjects = vec![names::canonical(own.issuer().as_raw())];
    let mut left: Vec<_> = sent.iter().collect();
    let mut above = Vec::new();
    let mut next = 0;
    while let Some(subject) = subjects.get(next).cloned() {
        next += 1;
        let is_it = |one: &X509Certificate<'_>| names::canonical(one.subject().as_raw()) == subject;
        let (found, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|one| is_it(one));
        left = others;
        for one in found {
            let issuer = names::canonical(one.issuer().as_raw());
            if !subjects.contains(&issuer) {
                subjects.push(issuer);
            }
            above.push(Above::Sent(one));
        }
    }
    let named = authorities.filter(|(one, _)| subjects.contains(&one.subject));
    above.extend(named.map(|(one, key)| Above::Authority(one, key)));
    above
}

/// The error of a chain that rustls-webpki refuses for its names, extensions or issuer
/// keys. Each of `authorities` has its SubjectPublicKeyInfo.
pub(super) fn explain<'a>(
    error: &webpki::Error,
    chain: &'a [X509Certificate<'a>],
    authorities: impl Iterator<Item = (&'a AnchorLimits, &'a [u8])>,
) -> Option<PathError> {
    use webpki::Error as E;
    match error {
        E::UnsupportedCriticalExtension => chain.iter().find_map(|one| {
            Some(PathError::Critical {
                name: crate::crl::display_name(one.subject()),
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

/// An issuer with an unsupported key, unless another issuer has the same name.
fn issuer_key(above: &[Above<'_>]) -> Option<PathError> {
    above.iter().find_map(|one| {
        let kind = one.unsupported_key()?;
        let mut others = above
            .iter()
            .filter(|other| other.subject() == one.subject());
        let is_only = others.all(|other| other.unsupported_key().is_some());
        is_only.then(|| PathError::IssuerKey {
            name: one.name(),
            is_authority: matches!(one, Above::Authority(..)),
            kind,
        })
    })
}

/// The name constraint that a name of the chain violates.
fn constraint(above: &[Above<'_>], chain: &[X509Certificate<'_>]) -> Option<PathError> {
    let mut found = Vec::new();
    for one in above {
        let Some(constraints) = one.constraints() else {
            continue;
        };
        let forbidden = chain.iter().find_map(|one| constraints.forbids_other(one));
        for kind in constraints.kinds() {
            // Constraints that are checked here are not passed to rustls-webpki.
            if !kind.is_checked_here() {
                let is_present = chain.iter().any(|one| kind.is_in(one));
                // A constraint that cannot be checked refuses every name of its kind.
                let is_cause = forbidden == Some(*kind) || (is_present && !kind.is_checked());
                let order = (!is_cause, !is_present, kind.is_checked());
                found.push((order, one.name(), *kind));
            }
        }
    }
    let (_, authority, kind) = found.into_iter().min_by_key(|(order, ..)| *order)?;
    Some(PathError::Constraint {
        authority,
        kind: kind.name(),
        is_checked: kind.is_checked(),
    })
}

/// Whether a chain writes an issuer's name differently than the issuer itself, has critical
/// extensions that need no action, or has constraints that are checked here.
pub(super) fn needs_rewriting(
    error: &webpki::Error,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Option<rewrite::Rewritten> {
    use webpki::Error as E;
    match error {
        E::UnknownIssuer | E::UnsupportedCriticalExtension | E::NameConstraintViolation => {
            rewrite::Rewritten::new(end_entity, intermediates)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
