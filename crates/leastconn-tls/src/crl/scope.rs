//! Which of its issuer's certificates a list is about: all of them, or one partition
//! (issuing distribution point, RFC 5280, section 5.2.5).

use x509_parser::{
    certificate::X509Certificate,
    extensions::{
        CRLDistributionPoint, DistributionPointName, GeneralName, IssuingDistributionPoint,
        ParsedExtension,
    },
    oid_registry::OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
};

/// What a certificate is in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client's or the server's own.
    EndEntity,
    /// It issued the one below it.
    Issuer,
}

/// What a list covers. The default is everything that its issuer issued.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// The extension's value: lists with the same one replace each other.
    pub(super) raw: Box<[u8]>,
    users_only: bool,
    issuers_only: bool,
    /// It names a distribution point: it is a partition.
    is_partition: bool,
    /// Where the list is published.
    pub(super) uris: Vec<String>,
}

/// How a list relates to a certificate of its issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    /// It decides about the certificate.
    Full,
    /// The certificate names no distribution point, so it may be in any partition: the
    /// list can revoke it, but not show that it is good.
    RevokesOnly,
    /// It says nothing about the certificate.
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

/// Where a certificate says that its list is published.
#[derive(Debug)]
pub(super) enum Points {
    /// It does not say.
    Absent,
    /// Empty if none of its distribution points can be used.
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
        // Points of indirect lists, and of lists for some reasons only, are not used.
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

    /// Empty if it names none.
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
