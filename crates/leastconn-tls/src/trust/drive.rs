//! Verification of arbitrary chains, for property tests and fuzzing.

use std::sync::{Arc, OnceLock};

use rustls::{crypto::aws_lc_rs, pki_types::CertificateDer};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{CachingVerifier, ChainVerifier, Pins, Usage, unix_time};
use crate::{
    certificate::{self, Certificate},
    crl::CrlStore,
};

/// Maximum number of intermediates.
const INTERMEDIATES: usize = 8;

/// An authority whose key no longer exists, and all client certificates below it.
#[cfg_attr(
    not(fuzzing),
    expect(unreachable_pub, reason = "exported to the fuzz target")
)]
pub struct Material {
    pub authority: &'static [u8],
    /// Certificates of clients, which the authority or its intermediates have signed.
    pub clients: &'static [&'static [u8]],
    /// A time in the validity period of all certificates, in seconds since 1970.
    pub now: i64,
}

/// Verifies the chain that `data` encodes: certificates after their length in two bytes each. The
/// key of the authority does not exist, so an accepted certificate must have the signed content of
/// a certificate in `material`. Returns whether the chain was accepted.
pub(crate) fn drive(material: &Material, mut data: &[u8]) -> bool {
    static VERIFIER: OnceLock<Option<CachingVerifier>> = OnceLock::new();
    let verifier = VERIFIER.get_or_init(|| verifier(material));
    let Some(verifier) = verifier else {
        panic!("the authority is not usable");
    };
    let mut chain = Vec::new();
    while let [high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (der, rest) = rest.split_at(length.min(rest.len()));
        chain.push(CertificateDer::from(der));
        data = rest;
    }
    let Some((client, intermediates)) = chain.split_first() else {
        return false;
    };
    match verifier.verify_new(client, intermediates, unix_time(material.now)) {
        Ok(validity) => {
            assert!(validity.from <= material.now && material.now <= validity.until);
            let signed = signed_content(client);
            let mut genuine = material.clients.iter().map(|der| signed_content(der));
            assert!(
                signed.is_some() && genuine.any(|known| known == signed),
                "a certificate was accepted that no authority has signed"
            );
            if let Ok(names) = Certificate::from_der(client) {
                certificate::check(&names);
            }
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

fn verifier(material: &Material) -> Option<CachingVerifier> {
    let chains = ChainVerifier::new(
        &[CertificateDer::from(material.authority)],
        Arc::<CrlStore>::default(),
        aws_lc_rs::default_provider().signature_verification_algorithms,
        Usage::Client,
    );
    Some(CachingVerifier::new(
        chains.ok()?,
        Pins::new(std::iter::empty()),
        INTERMEDIATES,
    ))
}

/// The bytes that the signature of a certificate covers.
fn signed_content(der: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(parsed.tbs_certificate.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The certificates of the fuzz target.
    macro_rules! material {
        ($file:literal) => {
            include_bytes!(concat!("../../../../fuzz/", $file))
        };
    }

    const MATERIAL: Material = Material {
        authority: material!("material/authority.der"),
        clients: &[
            material!("material/client.der"),
            material!("material/below-intermediate.der"),
            material!("material/below-constrained.der"),
        ],
        now: 1_893_456_000,
    };

    /// Chains, and whether they are accepted.
    const CHAINS: [(&[u8], bool); 5] = [
        (material!("seeds/chain/00"), true),
        (material!("seeds/chain/01"), true),
        (material!("seeds/chain/02"), true),
        (material!("seeds/chain/03"), true),
        // A name outside of the constraints of the intermediate.
        (material!("seeds/chain/04"), false),
    ];

    #[test]
    fn seeds_are_accepted_unless_constraints_forbid_it() {
        for (chain, is_accepted) in CHAINS {
            assert_eq!(drive(&MATERIAL, chain), is_accepted);
        }
    }

    proptest! {
        #[test]
        fn modified_chains_are_refused(
            chain in 0..CHAINS.len(), at in any::<prop::sample::Index>(), flip in 1..=u8::MAX
        ) {
            let mut chain = CHAINS[chain].0.to_vec();
            let at = at.index(chain.len());
            chain[at] ^= flip;
            drive(&MATERIAL, &chain);
        }
    }
}
