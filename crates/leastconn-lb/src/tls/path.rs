//! What RFC 5280 asks of a certification path, and rustls-webpki leaves out: limits of
//! trust anchors, key usage, name constraints of more kinds, and keys that no handshake
//! accepts.

pub(crate) mod rewrite;

use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;

use super::chain::Usage;
use crate::{
    names,
    x509::{
        constraints::{Constraints, NameKind},
        key,
    },
};

/// Why a path is not accepted whose signatures and dates are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The peer's key is of a kind that no handshake accepts.
    Key(String),
    /// The peer's key usage lacks digitalSignature.
    NoDigitalSignature,
    /// A certificate above the peer's has a key usage without keyCertSign.
    NoCertSign {
        /// Its subject.
        name: String,
    },
    /// There are more certificates below an authority than it allows.
    PathLength {
        /// Its subject.
        authority: String,
        /// How many it allows between itself and the peer's.
        limit: u32,
    },
    /// An authority's extended key usage does not include the peer's.
    Purpose {
        /// Its subject.
        authority: String,
    },
    /// A name is not allowed by an authority's name constraints.
    Constraint {
        /// The authority's subject.
        authority: String,
        /// The kind of name.
        kind: &'static str,
        /// Whether constraints of this kind can be checked.
        is_checked: bool,
    },
    /// A certificate has a critical extension that is not processed.
    Critical {
        /// Its subject.
        name: String,
        /// The extension's OID.
        oid: String,
    },
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
    path_length: Option<u32>,
    allows_usage: bool,
    constraints: Option<Constraints>,
}

impl AnchorLimits {
    pub(super) fn of(name: &str, authority: &X509Certificate<'_>, usage: Usage) -> Self {
        let basic = authority.basic_constraints().ok().flatten();
        Self {
            name: name.to_owned(),
            path_length: basic.and_then(|basic| basic.value.path_len_constraint),
            allows_usage: allows_usage(authority, usage),
            constraints: Constraints::of(authority),
        }
    }

    /// The anchor for rustls-webpki, without what is checked here, and with its name in
    /// canonical form if the chain's are.
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

/// Checks a path: the peer's certificate, then those above it, below an authority.
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
    // Those that an authority issued to itself do not count.
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

/// Checks the peer's own certificate.
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

/// The error of a chain that rustls-webpki refuses for its names or extensions.
pub(super) fn explain<'a>(
    error: &webpki::Error,
    chain: &[X509Certificate<'_>],
    authorities: impl Iterator<Item = &'a AnchorLimits>,
) -> Option<PathError> {
    match error {
        webpki::Error::UnsupportedCriticalExtension => chain.iter().find_map(|one| {
            Some(PathError::Critical {
                name: crate::crl::display_name(one.subject()),
                oid: rewrite::unknown_critical(one)?,
            })
        }),
        webpki::Error::NameConstraintViolation => {
            let of_chain = chain.iter().skip(1).filter_map(|one| {
                Some((
                    crate::crl::display_name(one.subject()),
                    Constraints::of(one)?,
                ))
            });
            let of_authorities =
                authorities.filter_map(|one| Some((one.name.clone(), one.constraints.clone()?)));
            // Constraints that are checked here were not passed on.
            let constrained: Vec<_> = of_chain.chain(of_authorities).collect();
            let kinds = constrained
                .iter()
                .flat_map(|(name, one)| one.kinds().iter().map(move |kind| (name, kind)));
            let mut kinds: Vec<_> = kinds.filter(|(_, kind)| !kind.is_checked_here()).collect();
            // One that cannot be checked refuses every name of its kind.
            let is_present = |kind: &NameKind| chain.iter().any(|one| kind.is_in(one));
            kinds.sort_by_key(|(_, kind)| (!is_present(kind), kind.is_checked()));
            kinds.first().map(|(name, kind)| PathError::Constraint {
                authority: (*name).clone(),
                kind: kind.name(),
                is_checked: kind.is_checked(),
            })
        }
        _ => None,
    }
}

/// Whether a chain names an issuer in another form than the issuer does itself, has
/// critical extensions that need no action, or constraints that are checked here.
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
