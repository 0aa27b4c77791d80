//! Which authorities are revoked. An authority is trusted as it stands, so verifying a
//! chain does not look for what is above it.

use std::{collections::HashMap, sync::Arc};

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{CrlStore, signature};
use crate::names;

/// The list that revokes an authority, or an authority above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The list's issuer.
    pub issuer: String,
    /// The list's file.
    pub file: Arc<str>,
}

impl CrlStore {
    /// What revokes each of these authorities, in their order. An authority is revoked
    /// if a list names it, or if all those of `authorities` that issued it are revoked.
    pub fn revoked_authorities(
        &self,
        authorities: &[CertificateDer<'_>],
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Vec<Option<Revocation>> {
        let parsed: Vec<_> = authorities
            .iter()
            .map(|der| {
                X509Certificate::from_der(der)
                    .ok()
                    .map(|(_, parsed)| parsed)
            })
            .collect();
        let mut revoked: Vec<_> = authorities
            .iter()
            .zip(&parsed)
            .map(|(der, parsed)| self.naming(der, parsed.as_ref()?, algorithms))
            .collect();
        if revoked.iter().all(Option::is_none) {
            return revoked;
        }
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for (at, authority) in parsed.iter().enumerate() {
            if let Some(authority) = authority {
                let subject = names::canonical(authority.subject().as_raw());
                let key = authority.public_key().raw;
                by_name.entry(subject).or_default().push((at, key));
            }
        }
        let issuers: Vec<Vec<usize>> = authorities
            .iter()
            .zip(&parsed)
            .map(|(der, child)| issuers(der, child.as_ref(), &by_name, algorithms))
            .collect();
        // Each round goes one level down.
        loop {
            let below = (0..authorities.len()).find_map(|at| {
                let above = &issuers[at];
                let is_below =
                    revoked[at].is_none() && above.iter().all(|&issuer| revoked[issuer].is_some());
                let first = above.first().filter(|_| is_below)?;
                Some((at, revoked[*first].clone()))
            });
            match below {
                Some((at, by)) => revoked[at] = by,
                None => return revoked,
            }
        }
    }

    /// The list that names an authority's certificate: its issuer's name must be the
    /// list's, and its signature of the list's key.
    fn naming(
        &self,
        der: &CertificateDer<'_>,
        certificate: &X509Certificate<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Option<Revocation> {
        let one = self.of_name(certificate.issuer().as_raw()).find(|one| {
            one.list.names(certificate.raw_serial())
                && one
                    .keys
                    .iter()
                    .any(|key| signature::verify(der, key, algorithms).is_ok())
        })?;
        Some(Revocation {
            issuer: one.list.issuer.clone(),
            file: Arc::clone(&one.file),
        })
    }
}

/// Positions and public keys (SubjectPublicKeyInfo) of authorities, by their subjects in
/// canonical form.
type ByName<'a> = HashMap<Vec<u8>, Vec<(usize, &'a [u8])>>;

/// The positions of those that issued a certificate.
fn issuers(
    der: &CertificateDer<'_>,
    certificate: Option<&X509Certificate<'_>>,
    by_name: &ByName<'_>,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Vec<usize> {
    let of_name = certificate
        .and_then(|certificate| by_name.get(&names::canonical(certificate.issuer().as_raw())));
    let issued = |key: &[u8]| signature::verify(der, key, algorithms).is_ok();
    let of_name = of_name.into_iter().flatten();
    of_name
        .filter(|(_, key)| issued(key))
        .map(|(at, _)| *at)
        .collect()
}
