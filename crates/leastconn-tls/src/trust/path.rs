//! RFC 5280 path checks that rustls-webpki does not perform: limits of trust anchors, key usage,
//! more kinds of name constraints, and key types.

use rustls::pki_types::TrustAnchor;
use x509_parser::certificate::X509Certificate;

use super::{PathError, Usage};
use crate::{
    crl::display_name,
    der, distinguished_name,
    x509::{
        constraints::{Constraints, NameKind},
        key,
    },
};

/// The limits of one trust anchor. rustls-webpki ignores all of them except name
/// constraints.
#[derive(Debug)]
pub(super) struct AnchorLimits {
    pub(super) name: String,
    /// The subject as text.
    pub(super) subject_text: String,
    /// The subject in canonical form.
    pub(super) subject: Vec<u8>,
    path_length: Option<u32>,
    allows_usage: bool,
    pub(super) constraints: Option<Constraints>,
}

impl AnchorLimits {
    pub(super) fn new(name: &str, authority: &X509Certificate<'_>, usage: Usage) -> Self {
        let basic = authority.basic_constraints().ok().flatten();
        Self {
            name: name.to_owned(),
            subject_text: authority.subject().to_string(),
            subject: distinguished_name::canonical(authority.subject().as_raw()),
            path_length: basic.and_then(|basic| basic.value.path_len_constraint),
            allows_usage: allows_usage(authority, usage),
            constraints: Constraints::of(authority),
        }
    }

    /// The anchor for rustls-webpki, without the constraints that this crate checks itself.
    /// If `is_canonical`, the anchor's subject is in canonical form.
    pub(super) fn anchor(
        &self,
        anchor: &TrustAnchor<'static>,
        is_canonical: bool,
    ) -> TrustAnchor<'static> {
        let subject = if is_canonical {
            let whole = der::encode(0x30, &anchor.subject);
            let rdns = distinguished_name::canonical_rdns(&whole);
            rdns.map_or_else(|| anchor.subject.to_vec(), |rdns| rdns.concat())
        } else {
            anchor.subject.to_vec()
        };
        TrustAnchor {
            subject: subject.into(),
            subject_public_key_info: anchor.subject_public_key_info.clone(),
            name_constraints: match &self.constraints {
                Some(constraints) => constraints.rest.clone().map(Into::into),
                None => anchor.name_constraints.clone(),
            },
        }
    }
}

fn allows_usage(authority: &X509Certificate<'_>, usage: Usage) -> bool {
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

/// Checks a path, which consists of the peer's certificate followed by its issuers, without the
/// authority.
pub(super) fn check(
    path: &[X509Certificate<'_>],
    authority: &AnchorLimits,
    usage: Usage,
) -> Result<(), PathError> {
    let Some((own, intermediates)) = path.split_first() else {
        return Ok(());
    };
    if !authority.allows_usage {
        return Err(PathError::Purpose {
            authority: authority.name.clone(),
        });
    }
    check_path_length(intermediates, authority)?;
    for intermediate in intermediates {
        let can_sign = match intermediate.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        };
        if !can_sign {
            return Err(PathError::NoCertSign {
                name: display_name(intermediate.subject()),
            });
        }
    }
    check_constraints(path, authority)?;
    check_own(own, usage)
}

pub(super) fn check_own(own: &X509Certificate<'_>, usage: Usage) -> Result<(), PathError> {
    if usage == Usage::Client {
        let can_sign = match own.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.digital_signature()),
            Err(_) => false,
        };
        if !can_sign {
            return Err(PathError::NoDigitalSignature);
        }
    }
    match key::unsupported(own.public_key()) {
        Some(kind) => Err(PathError::Key(kind)),
        None => Ok(()),
    }
}

fn check_path_length(
    intermediates: &[X509Certificate<'_>],
    authority: &AnchorLimits,
) -> Result<(), PathError> {
    // Self-issued certificates do not count towards the path length.
    let counted = intermediates.iter().filter(|certificate| {
        distinguished_name::canonical(certificate.subject().as_raw())
            != distinguished_name::canonical(certificate.issuer().as_raw())
    });
    let counted = u32::try_from(counted.count()).unwrap_or(u32::MAX);
    match authority.path_length.filter(|limit| counted > *limit) {
        Some(limit) => Err(PathError::PathLength {
            authority: authority.name.clone(),
            limit,
        }),
        None => Ok(()),
    }
}

fn check_constraints(
    path: &[X509Certificate<'_>],
    authority: &AnchorLimits,
) -> Result<(), PathError> {
    let forbidden = |constraints: &Constraints, below: &[X509Certificate<'_>]| {
        let name = below.iter().find_map(|one| constraints.forbids(one));
        name.or_else(|| constraints.forbids_common_name(below.first()?))
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
    for (position, issuer) in path.iter().enumerate().skip(1) {
        if let Some(constraints) = Constraints::of(issuer)
            && let Some(kind) = forbidden(&constraints, &path[..position])
        {
            return Err(error(&display_name(issuer.subject()), kind));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
