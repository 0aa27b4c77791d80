//! Signature checks of one chain, with budgets.
//!
//! Path building counts only failed checks: a client cannot create certificates that an authority
//! or a selected issuer has signed. The explanation of a refusal also checks certificates of other
//! CAs, which a client can sign once and send many times. There, every check counts.

use rustls::pki_types::SignatureVerificationAlgorithm;

use super::{
    Issuer,
    outline::{Outline, PublicKey},
};
use crate::der::{OBJECT_ID, Reader, SEQUENCE};

/// Budget for failed signature checks of a chain, in units of one P-256 check (about 50 µs). In a
/// chain without certificates of foreign issuers, no check fails.
pub(super) const MAX_FAILURES: u32 = 16;

/// Budget for all checks that explain a refusal, in the same unit. Sufficient for one check with
/// the most expensive key.
const MAX_EXPLANATION: u32 = 6;

/// The failed signature checks of a chain, which use up its budget.
#[derive(Debug, Default)]
pub(in crate::trust) struct Failures {
    /// Cost of the failed checks so far, in units of one P-256 check.
    pub(super) spent: u32,
    /// Checks that failed. They are not repeated when the chain is verified a second time
    /// with rewritten names.
    known: Vec<Failure>,
}

#[derive(Debug)]
struct Failure {
    signature: Box<[u8]>,
    key: Box<[u8]>,
}

/// Checks signatures until the budget is used up.
pub(in crate::trust) struct Signatures<'a> {
    algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    failures: &'a mut Failures,
    /// What is left of the budget for explanations. `None` while paths are built.
    explanation: Option<u32>,
}

impl<'a> Signatures<'a> {
    /// Checks for path building, which use up the budget only if they fail.
    pub(super) const fn for_paths(
        algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
        failures: &'a mut Failures,
    ) -> Self {
        Self {
            algorithms,
            failures,
            explanation: None,
        }
    }

    /// Checks for the explanation of a refusal. Each check uses up the budget, which is smaller if
    /// path building has used up most of its own.
    pub(in crate::trust) fn for_explanation(
        algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
        failures: &'a mut Failures,
    ) -> Self {
        let left = MAX_FAILURES.saturating_sub(failures.spent);
        Self {
            algorithms,
            failures,
            explanation: Some(left.min(MAX_EXPLANATION)),
        }
    }
}

impl<'a> Signatures<'a> {
    /// Whether `certificate` is signed with the key of `spki`, a SubjectPublicKeyInfo. Both are in
    /// DER. Returns `None` if this is not known, because an algorithm is not supported, the budget
    /// is used up, or the input is malformed.
    pub(in crate::trust) fn is_signed_by(
        &mut self,
        certificate: &[u8],
        spki: &[u8],
    ) -> Option<bool> {
        let issued = Outline::parse(certificate)?;
        let key = PublicKey::parse(Reader(spki).content(SEQUENCE)?)?;
        self.is_issued_by(&issued, &key)
    }

    /// Whether signatures with the algorithm of `certificate` can be verified.
    pub(in crate::trust) fn supports(&self, certificate: &[u8]) -> bool {
        Outline::parse(certificate)
            .is_some_and(|issued| self.for_signature(&issued).next().is_some())
    }

    /// Whether one of `issuers` signed `issued`. Issuers that have the authority key
    /// identifier of `issued` are tried first.
    pub(super) fn is_issued_by_any(
        &mut self,
        issued: &Outline<'_>,
        issuers: &[Issuer<'_>],
    ) -> bool {
        let named = issuers
            .iter()
            .filter(|issuer| issuer.subject == issued.issuer);
        let is_likely = |issuer: &&Issuer<'_>| {
            issued.authority_key_id.is_some() && issued.authority_key_id == issuer.key_id
        };
        let (likely, others): (Vec<&Issuer<'_>>, Vec<&Issuer<'_>>) = named.partition(is_likely);
        let mut all = likely.into_iter().chain(others);
        all.any(|issuer| self.is_issued_by(issued, &issuer.key) == Some(true))
    }

    fn is_issued_by(&mut self, issued: &Outline<'_>, key: &PublicKey<'_>) -> Option<bool> {
        let mut known = self.failures.known.iter();
        if known.any(|one| *one.signature == *issued.signature && *one.key == *key.bits) {
            return Some(false);
        }
        let algorithm = self
            .for_signature(issued)
            .find(|algorithm| algorithm.public_key_alg_id().as_ref() == key.algorithm);
        let Some(algorithm) = algorithm else {
            return self.is_key_of_another_type(issued, key).then_some(false);
        };
        let cost = cost(key, issued.signed);
        if !self.is_within_budget(cost) {
            return None;
        }
        let verified = algorithm.verify_signature(key.bits, issued.signed, issued.signature);
        if verified.is_err() {
            self.failures.spent += cost;
            self.failures.known.push(Failure {
                signature: issued.signature.into(),
                key: key.bits.into(),
            });
        }
        Some(verified.is_ok())
    }

    /// Whether a check of this cost is allowed. Subtracts the cost from the budget for explanations.
    fn is_within_budget(&mut self, cost: u32) -> bool {
        let Some(left) = &mut self.explanation else {
            return self.failures.spent < MAX_FAILURES;
        };
        let rest = left.checked_sub(cost);
        *left = rest.unwrap_or(*left);
        rest.is_some()
    }

    /// The algorithms that verify the signature of `issued`, for different types of keys.
    fn for_signature(
        &self,
        issued: &Outline<'_>,
    ) -> impl Iterator<Item = &'a dyn SignatureVerificationAlgorithm> {
        let algorithms = self.algorithms.iter().copied();
        algorithms.filter(move |algorithm| {
            algorithm.signature_alg_id().as_ref() == issued.signature_algorithm
        })
    }

    /// Whether the signature of `issued` needs another type of key than `key`: RSA instead of
    /// ECDSA, for example. `false` if the algorithm of either is not supported.
    fn is_key_of_another_type(&self, issued: &Outline<'_>, key: &PublicKey<'_>) -> bool {
        let Some(own) = Reader(key.algorithm).content(OBJECT_ID) else {
            return false;
        };
        let has_type = |algorithm: &dyn SignatureVerificationAlgorithm| {
            Reader(algorithm.public_key_alg_id().as_ref()).content(OBJECT_ID) == Some(own)
        };
        let is_supported = self.algorithms.iter().any(|algorithm| has_type(*algorithm));
        let mut fitting = self.for_signature(issued).peekable();
        is_supported && fitting.peek().is_some() && !fitting.any(has_type)
    }
}

/// The cost of a check with `key`, in units of one P-256 check.
pub(super) fn cost(key: &PublicKey<'_>, signed: &[u8]) -> u32 {
    // The length of an uncompressed point, or of a modulus with its encoding.
    let by_key = match key.bits.len() {
        // Ed25519, P-256.
        0..=66 => 1,
        // P-384.
        67..=98 => 4,
        // P-521.
        99..=134 => 6,
        // RSA of up to 3072 bits, of up to 4096 bits, and longer.
        135..=400 => 1,
        401..=600 => 2,
        _ => 6,
    };
    by_key + u32::try_from(signed.len() / HASHED_BYTES).unwrap_or(MAX_FAILURES)
}

/// Number of bytes that can be hashed in the time of one P-256 check.
const HASHED_BYTES: usize = 32 * 1024;
