//! Revocation of authorities. Chain verification ends at a trusted authority, and does not
//! check whether this authority or an authority above it is revoked.

use std::{collections::HashMap, sync::Arc};

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{CrlStore, signature};
use crate::distinguished_name;

/// The CRL that revokes an authority, or an authority above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub issuer: String,
    pub file: Arc<str>,
}

impl CrlStore {
    /// Returns for each authority, in the order of `authorities`, the CRL that revokes it, if
    /// any. An authority is revoked if a CRL lists it, or if all its issuers among
    /// `authorities` are revoked.
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
            .map(|(der, parsed)| self.listing(der, parsed.as_ref()?, algorithms))
            .collect();
        if revoked.iter().all(Option::is_none) {
            return revoked;
        }
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for (at, authority) in parsed.iter().enumerate() {
            if let Some(authority) = authority {
                let subject = distinguished_name::canonical(authority.subject().as_raw());
                let key = authority.public_key().raw;
                by_name.entry(subject).or_default().push((at, key));
            }
        }
        let issuers: Vec<Vec<usize>> = authorities
            .iter()
            .zip(&parsed)
            .map(|(der, child)| issuers(der, child.as_ref(), &by_name, algorithms))
            .collect();
        // Each round finds one authority whose issuers are all revoked.
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

    /// The CRL that lists an authority's certificate. The certificate and the CRL must have the
    /// same issuer name and must be signed with the same key.
    fn listing(
        &self,
        der: &CertificateDer<'_>,
        certificate: &X509Certificate<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Option<Revocation> {
        let one = self.of_name(certificate.issuer().as_raw()).find(|one| {
            one.list.lists_serial(certificate.raw_serial())
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

/// The index and the public key (SubjectPublicKeyInfo) of each authority, by its subject in
/// canonical form.
type ByName<'a> = HashMap<Vec<u8>, Vec<(usize, &'a [u8])>>;

/// The indices of the authorities that issued a certificate.
fn issuers(
    der: &CertificateDer<'_>,
    certificate: Option<&X509Certificate<'_>>,
    by_name: &ByName<'_>,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Vec<usize> {
    let of_name = certificate.and_then(|certificate| {
        by_name.get(&distinguished_name::canonical(
            certificate.issuer().as_raw(),
        ))
    });
    let issued = |key: &[u8]| signature::verify(der, key, algorithms).is_ok();
    let of_name = of_name.into_iter().flatten();
    of_name
        .filter(|(_, key)| issued(key))
        .map(|(at, _)| *at)
        .collect()
}
