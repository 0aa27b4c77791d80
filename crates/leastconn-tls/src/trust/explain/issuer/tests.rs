use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use leastconn_testkit::{TestCa, pki::Cert};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P521_SHA512, SignatureAlgorithm,
};
use rustls::{
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{
        AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
        UnixTime,
    },
};

use crate::trust::{ChainError, ChainVerifier, Tolerance, Usage};

/// Counts the signatures that are verified.
#[derive(Debug)]
struct Counted {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    count: Arc<AtomicUsize>,
}

impl SignatureVerificationAlgorithm for Counted {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.algorithm
            .verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

/// Verifies a chain below `root`. Returns the error and the number of verified signatures.
fn refuse(
    root: &CertificateDer<'static>,
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
) -> (ChainError, usize) {
    let supported = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let count = Arc::new(AtomicUsize::new(0));
    // A verifier holds static references.
    let counted = supported.all.iter().map(|&algorithm| {
        let count = Arc::clone(&count);
        let counted: &'static Counted = Box::leak(Box::new(Counted { algorithm, count }));
        counted as &'static dyn SignatureVerificationAlgorithm
    });
    let algorithms = WebPkiSupportedAlgorithms {
        all: Vec::leak(counted.collect()),
        mapping: supported.mapping,
    };
    let roots = [root.clone()];
    let verifier = ChainVerifier::new(&roots, Arc::default(), algorithms, Usage::Client).unwrap();
    let verified = verifier.verify(leaf, above, UnixTime::now(), Tolerance::default());
    (verified.unwrap_err(), count.load(Ordering::Relaxed))
}

fn root_of(ca: &TestCa) -> CertificateDer<'static> {
    ca.cert().der().clone()
}

/// The intermediates of `leaf`.
fn above(leaf: &Cert) -> Vec<CertificateDer<'static>> {
    leaf.chain_der[1..].to_vec()
}

/// A chain of `length` intermediates with valid signatures, the issuer of the leaf first, below a
/// CA that is not configured.
fn foreign_chain(
    length: usize,
    algorithm: &'static SignatureAlgorithm,
) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
    let params = |name: &str, is_ca: bool| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    };
    let key = || KeyPair::generate_for(algorithm).unwrap();
    let mut issuer = Issuer::new(params("foreign root", true), key());
    let mut above = Vec::new();
    for n in 0..length {
        let (params, key) = (params(&format!("foreign {n}"), true), key());
        above.insert(0, params.signed_by(&key, &issuer).unwrap().der().clone());
        issuer = Issuer::new(params, key);
    }
    let leaf = params("client", false).signed_by(&key(), &issuer).unwrap();
    (leaf.der().clone(), above)
}

/// Threats, row 22c.
#[test]
fn valid_foreign_chains_cost_few_checks() {
    let root = root_of(&TestCa::new("root"));
    for (algorithm, most) in [(&PKCS_ECDSA_P521_SHA512, 1), (&PKCS_ECDSA_P256_SHA256, 6)] {
        let (leaf, above) = foreign_chain(8, algorithm);
        let (error, checks) = refuse(&root, &leaf, &above);
        assert!(checks <= most, "{checks}");
        let text = error.text(Usage::Client);
        let expected = "its issuer is `CN=foreign root`, and `client_ca` has `CN=root`";
        assert!(text.contains(expected), "{text}");
    }
}

/// Replaces ecdsa-with-SHA256 by ecdsa-with-SHA224, which is not supported.
fn with_unsupported_signature(der: &CertificateDer<'_>) -> CertificateDer<'static> {
    let (sha256, sha224) = (
        b"\x2a\x86\x48\xce\x3d\x04\x03\x02",
        b"\x2a\x86\x48\xce\x3d\x04\x03\x01",
    );
    let mut der = der.to_vec();
    let mut replaced = 0;
    for n in 0..der.len() - sha256.len() {
        if der[n..].starts_with(sha256) {
            der[n..n + sha224.len()].copy_from_slice(sha224);
            replaced += 1;
        }
    }
    assert_eq!(replaced, 2);
    der.into()
}

#[test]
fn unsupported_signature_is_not_called_wrong() {
    let root = TestCa::new("root");
    let issuing = root.intermediate("first").intermediate("second");
    let leaf = issuing.leaf("client").build();
    let chain = leaf.chain_der.clone();
    for (position, certificate) in [
        (0, "the client's certificate is signed"),
        (1, "the intermediate `CN=second` of the client is signed"),
        (2, "the intermediate `CN=first` of the client is signed"),
    ] {
        let mut chain = chain.clone();
        chain[position] = with_unsupported_signature(&chain[position]);
        let (error, _) = refuse(&root_of(&root), &chain[0], &chain[1..]);
        let text = error.text(Usage::Client);
        assert!(text.starts_with(certificate), "{text}");
        let expected = "with an algorithm that is not supported: issue it again with SHA-256";
        assert!(text.contains(expected), "{text}");
    }
}

/// A chain whose top is not configured is refused for that, whatever the signature of its top.
#[test]
fn unknown_issuer_precedes_unsupported_signature() {
    let foreign = TestCa::new("foreign root");
    let leaf = foreign.intermediate("issuing").leaf("client").build();
    let mut above = above(&leaf);
    above.push(with_unsupported_signature(&root_of(&foreign)));
    let (error, _) = refuse(&root_of(&TestCa::new("root")), leaf.der(), &above);
    let text = error.text(Usage::Client);
    assert!(text.contains("its issuer is `CN=foreign root`"), "{text}");
}

#[test]
fn forged_certificates_are_still_called_forged() {
    let root = TestCa::new("root");
    // Another CA with the same name, above two intermediates.
    let leaf = TestCa::new("root")
        .intermediate("first")
        .intermediate("second")
        .leaf("client")
        .build();
    let (error, _) = refuse(&root_of(&root), leaf.der(), &above(&leaf));
    let text = error.text(Usage::Client);
    let expected = "the intermediate `CN=first` of the client names the authority `CN=root` of \
                    `client_ca` as its issuer, but another CA with the same name signed it";
    assert!(text.contains(expected), "{text}");
    // An RSA key cannot have made an ECDSA signature.
    let forged = TestCa::new("root").leaf("client").build();
    let rsa = TestCa::from_leaf(&root.leaf("root").rsa().build());
    let (error, checks) = refuse(&root_of(&rsa), forged.der(), &[]);
    let text = error.text(Usage::Client);
    assert!(
        text.contains("another CA with the same name signed it"),
        "{text}"
    );
    assert_eq!(checks, 0);
}
