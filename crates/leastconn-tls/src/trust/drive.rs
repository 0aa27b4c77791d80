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

/// A certificate that `fuzz/seeds.py` has generated.
macro_rules! material {
    ($file:literal) => {
        include_bytes!(concat!("../../../../fuzz/", $file))
    };
}

/// An authority whose key no longer exists.
const AUTHORITY: &[u8] = material!("material/authority.der");

/// All client certificates that the authority or its intermediates have signed.
const CLIENTS: [&[u8]; 3] = [
    material!("material/client.der"),
    material!("material/below-intermediate.der"),
    material!("material/below-constrained.der"),
];

/// 2030-01-01, which is in the validity period of all certificates.
const NOW: i64 = 1_893_456_000;

/// Verifies the chain that `data` encodes: certificates after their length in two bytes each. The
/// key of the authority does not exist, so an accepted certificate must have the signed content of
/// one of [`CLIENTS`]. Returns whether the chain was accepted.
pub(crate) fn drive(mut data: &[u8]) -> bool {
    static VERIFIER: OnceLock<Option<CachingVerifier>> = OnceLock::new();
    let verifier = VERIFIER.get_or_init(verifier);
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
    match verifier.verify_new(client, intermediates, unix_time(NOW)) {
        Ok(validity) => {
            assert!(validity.from <= NOW && NOW <= validity.until);
            let signed = signed_content(client);
            let mut genuine = CLIENTS.iter().map(|der| signed_content(der));
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

fn verifier() -> Option<CachingVerifier> {
    let chains = ChainVerifier::new(
        &[CertificateDer::from(AUTHORITY)],
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
            assert_eq!(drive(chain), is_accepted);
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
            drive(&chain);
        }
    }
}
