use std::sync::{Arc, atomic::Ordering};

use leastconn_testkit::{TestCa, pki::Cert};
use rustls::CertificateError;

use super::*;
use crate::crl::{CrlStore, tests::store};

const DAY: i64 = 86_400;

struct Setup {
    ca: TestCa,
    verifier: CachingVerifier,
}

fn verifier(authorities: &[&TestCa], lists: CrlStore) -> CachingVerifier {
    let ders: Vec<_> = authorities
        .iter()
        .map(|ca| ca.cert().der().clone())
        .collect();
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let chains = ChainVerifier::new(&ders, Arc::new(lists), algorithms, Usage::Client).unwrap();
    CachingVerifier::new(chains, Default::default(), 8)
}

impl Setup {
    fn new(revoked: impl FnOnce(&TestCa) -> Option<Cert>) -> Self {
        let ca = TestCa::new("verifier tests");
        let lists: Vec<_> = revoked(&ca).iter().map(|cert| ca.crl(&[cert])).collect();
        let verifier = verifier(&[&ca], store(&[&ca], &lists));
        Self { ca, verifier }
    }

    fn verify(&self, cert: &Cert, now: UnixTime) -> Result<(), Error> {
        let (leaf, above) = cert.chain_der.split_first().unwrap();
        self.verifier.verify_client_cert(leaf, above, now).map(drop)
    }

    fn misses(&self) -> usize {
        self.verifier.misses.load(Ordering::Relaxed)
    }
}

fn in_seconds(seconds: i64) -> UnixTime {
    unix_time(super::seconds(UnixTime::now()) + seconds)
}

#[test]
fn valid_chain_is_verified_once() {
    let setup = Setup::new(|_| None);
    let cert = setup.ca.leaf("a").build();
    for _ in 0..3 {
        setup.verify(&cert, UnixTime::now()).unwrap();
    }
    assert_eq!(setup.misses(), 1);
    // A new certificate of the same client is not in the cache.
    setup
        .verify(&setup.ca.leaf("a").build(), UnixTime::now())
        .unwrap();
    assert_eq!(setup.misses(), 2);
}

#[test]
fn cached_result_expires_with_the_certificate() {
    let setup = Setup::new(|_| None);
    let cert = setup.ca.leaf("a").validity(-100, 1000).build();
    setup.verify(&cert, UnixTime::now()).unwrap();
    setup.verify(&cert, in_seconds(900)).unwrap();
    assert_eq!(setup.misses(), 1);
    let error = setup.verify(&cert, in_seconds(1100)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
        ),
        "{error}"
    );
    // The chain is also refused if the clock is before `notBefore`.
    assert!(setup.verify(&cert, in_seconds(-1000)).is_err());
}

#[test]
fn cached_result_expires_with_the_crl() {
    let setup = Setup::new(|ca| Some(ca.leaf("other").build()));
    let cert = setup.ca.leaf("a").validity(-100, 400 * DAY).build();
    setup.verify(&cert, UnixTime::now()).unwrap();
    setup.verify(&cert, UnixTime::now()).unwrap();
    assert_eq!(setup.misses(), 1);
    let error = setup.verify(&cert, in_seconds(390 * DAY)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::ExpiredRevocationListContext { .. })
        ),
        "{error}"
    );
}

#[test]
fn cached_result_expires_with_the_authority() {
    let ca = TestCa::with_validity("brief", -DAY, 1000);
    let setup = Setup {
        verifier: verifier(&[&ca], CrlStore::default()),
        ca,
    };
    let cert = setup.ca.leaf("a").validity(-100, 10 * DAY).build();
    setup.verify(&cert, in_seconds(999)).unwrap();
    let error = setup.verify(&cert, in_seconds(1100)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
        ),
        "{error}"
    );
}

#[test]
fn renewed_authority_replaces_the_expired_one() {
    let old = TestCa::with_validity("ca", -DAY, -10);
    let new = old.renewed("ca", -DAY, DAY);
    let cert = old.leaf("a").build();
    for authorities in [[&old, &new], [&new, &old]] {
        let verifier = verifier(&authorities, CrlStore::default());
        let (leaf, above) = cert.chain_der.split_first().unwrap();
        verifier
            .verify_client_cert(leaf, above, UnixTime::now())
            .unwrap();
    }
}

#[test]
fn errors_are_not_cached() {
    let mut revoked = None;
    let setup = Setup::new(|ca| {
        revoked = Some(ca.leaf("revoked").build());
        revoked.clone()
    });
    let untrusted = TestCa::new("untrusted").leaf("a").build();
    for cert in [&revoked.unwrap(), &untrusted] {
        assert!(setup.verify(cert, UnixTime::now()).is_err());
        assert!(setup.verify(cert, UnixTime::now()).is_err());
    }
    assert_eq!(setup.misses(), 4);
}

#[test]
fn too_many_authority_names_are_not_sent() {
    let cas: Vec<_> = (0..4)
        .map(|n| TestCa::new(&format!("{n}{}", "x".repeat(11_000))))
        .collect();
    let names = |count: usize| {
        let authorities: Vec<_> = cas.iter().take(count).collect();
        verifier(&authorities, CrlStore::default())
            .root_hint_subjects()
            .len()
    };
    assert_eq!([names(2), names(3)], [2, 0]);
}

#[test]
fn errors_name_certificate_and_remedy() {
    let root = TestCa::new("root");
    let sub = root.intermediate("sub");
    let client = sub.leaf("a").build();
    let error_text = |authorities: &[&TestCa], lists: &[String], cert: &Cert| {
        let verifier = verifier(authorities, store(authorities, lists));
        let (leaf, above) = cert.chain_der.split_first().unwrap();
        let tolerance = Tolerance::default();
        let error = verifier
            .chains
            .verify(leaf, above, UnixTime::now(), tolerance);
        error.unwrap_err().to_string()
    };
    let root_list = root.crl_builder().pem();
    assert_eq!(
        error_text(&[&root], std::slice::from_ref(&root_list), &client),
        "`crl` has no CRL of `CN=sub`: add the intermediate `CN=sub` to `client_ca`, and its CRL to \
         `crl`"
    );
    assert_eq!(
        error_text(
            &[&root, &TestCa::new("other")],
            std::slice::from_ref(&root_list),
            &TestCa::new("other").leaf("b").build()
        )
        .split(':')
        .next(),
        Some("invalid signature")
    );
    let revoked = error_text(
        &[&root],
        &[root.crl_builder().revoke(sub.cert()).pem()],
        &client,
    );
    assert_eq!(
        revoked,
        "a certificate above the client's is revoked by the CRL of `CN=root` in \"0.crl\""
    );
    let brief = root.intermediate_with_validity("brief", -DAY, -5);
    let expired = error_text(&[&root], &[root_list], &brief.leaf("c").build());
    assert!(
        expired.starts_with("the intermediate `CN=brief` that the client sent expired at "),
        "{expired}"
    );
}
