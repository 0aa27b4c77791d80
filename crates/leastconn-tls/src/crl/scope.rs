//! The scope of a CRL: all certificates of its issuer, or one partition (issuing
//! distribution point, RFC 5280, section 5.2.5).

use x509_parser::{
    certificate::X509Certificate,
    extensions::{
        CRLDistributionPoint, DistributionPointName, GeneralName, IssuingDistributionPoint,
        ParsedExtension,
    },
    oid_registry::OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
};

/// The role of a certificate in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer's own certificate.
    EndEntity,
    /// A CA certificate above the peer's certificate.
    Issuer,
}

/// The certificates that a CRL covers. The default is every certificate of its issuer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// The value of the extension. A newer CRL replaces an older CRL with the same value.
    pub(super) raw: Box<[u8]>,
    users_only: bool,
    issuers_only: bool,
    /// Whether the CRL names a distribution point, and so covers only a partition.
    is_partition: bool,
    /// The URIs at which the CRL is published.
    pub(super) uris: Vec<String>,
}

/// Whether a CRL covers a certificate of its issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    /// The CRL shows whether the certificate is revoked.
    Full,
    /// The certificate names no distribution point, so it can be in any partition. The CRL
    /// can show that the certificate is revoked, but not that it is good.
    RevokesOnly,
    /// The CRL does not cover the certificate.
    None,
}

impl Scope {
    pub(super) fn new(point: &IssuingDistributionPoint<'_>, raw: &[u8]) -> Self {
        Self {
            raw: raw.into(),
            users_only: point.only_contains_user_certs,
            issuers_only: point.only_contains_ca_certs,
            is_partition: point.distribution_point.is_some(),
            uris: uris(point.distribution_point.as_ref()),
        }
    }

    pub(super) fn covers(&self, points: &Points, role: Role) -> Coverage {
        let other_role = match role {
            Role::EndEntity => self.issuers_only,
            Role::Issuer => self.users_only,
        };
        if other_role {
            return Coverage::None;
        }
        if !self.is_partition {
            return Coverage::Full;
        }
        match points {
            Points::Absent => Coverage::RevokesOnly,
            Points::Uris(uris) if uris.iter().any(|uri| self.uris.contains(uri)) => Coverage::Full,
            Points::Uris(_) => Coverage::None,
        }
    }
}

/// The distribution points that a certificate names for its CRL.
#[derive(Debug)]
pub(super) enum Points {
    /// The certificate has no such extension.
    Absent,
    /// The URIs of the supported distribution points. Empty if none is supported.
    Uris(Vec<String>),
}

impl Points {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let extension =
            match certificate.get_extension_unique(&OID_X509_EXT_CRL_DISTRIBUTION_POINTS) {
                Ok(None) => return Self::Absent,
                Ok(Some(extension)) => extension.parsed_extension(),
                Err(_) => return Self::Uris(Vec::new()),
            };
        let ParsedExtension::CRLDistributionPoints(points) = extension else {
            return Self::Uris(Vec::new());
        };
        // Indirect CRLs, and CRLs for only some revocation reasons, are not supported.
        let usable = |point: &&CRLDistributionPoint<'_>| {
            point.crl_issuer.is_none() && point.reasons.is_none()
        };
        let usable = points.iter().filter(usable);
        Self::Uris(
            usable
                .flat_map(|point| uris(point.distribution_point.as_ref()))
                .collect(),
        )
    }

    pub(super) fn into_uris(self) -> Vec<String> {
        match self {
            Self::Absent => Vec::new(),
            Self::Uris(uris) => uris,
        }
    }
}

fn uris(name: Option<&DistributionPointName<'_>>) -> Vec<String> {
    let Some(DistributionPointName::FullName(names)) = name else {
        return Vec::new();
    };
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    uris.collect()
}
