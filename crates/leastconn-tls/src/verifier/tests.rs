use std::sync::{Arc, atomic::Ordering};

use leastconn_testkit::{TestCa, pki::Cert};
use rustls::CertificateError;

use super::{cache::GENERATION, *};
use crate::{
    crl::{CrlStore, tests::store},
    usage::Usage,
};

const DAY: i64 = 86_400;

struct Scene {
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

impl Scene {
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

fn later(seconds: i64) -> UnixTime {
    unix_time(super::seconds(UnixTime::now()) + seconds)
}

#[test]
fn a_good_chain_is_verified_once() {
    let scene = Scene::new(|_| None);
    let cert = scene.ca.leaf("a").build();
    for _ in 0..3 {
        scene.verify(&cert, UnixTime::now()).unwrap();
    }
    assert_eq!(scene.misses(), 1);
    // Another certificate is another chain.
    scene
        .verify(&scene.ca.leaf("a").build(), UnixTime::now())
        .unwrap();
    assert_eq!(scene.misses(), 2);
}

#[test]
fn an_answer_does_not_outlive_the_certificate() {
    let scene = Scene::new(|_| None);
    let cert = scene.ca.leaf("a").validity(-100, 1000).build();
    scene.verify(&cert, UnixTime::now()).unwrap();
    scene.verify(&cert, later(900)).unwrap();
    assert_eq!(scene.misses(), 1);
    let error = scene.verify(&cert, later(1100)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
        ),
        "{error}"
    );
    // Nor does it hold before the certificate does, should the clock be set back.
    assert!(scene.verify(&cert, later(-1000)).is_err());
}

#[test]
fn an_answer_does_not_outlive_the_revocation_list() {
    let scene = Scene::new(|ca| Some(ca.leaf("other").build()));
    let cert = scene.ca.leaf("a").validity(-100, 400 * DAY).build();
    scene.verify(&cert, UnixTime::now()).unwrap();
    scene.verify(&cert, UnixTime::now()).unwrap();
    assert_eq!(scene.misses(), 1);
    let error = scene.verify(&cert, later(390 * DAY)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::ExpiredRevocationListContext { .. })
        ),
        "{error}"
    );
}

#[test]
fn an_answer_does_not_outlive_the_authority() {
    let ca = TestCa::with_validity("brief", -DAY, 1000);
    let scene = Scene {
        verifier: verifier(&[&ca], CrlStore::default()),
        ca,
    };
    let cert = scene.ca.leaf("a").validity(-100, 10 * DAY).build();
    scene.verify(&cert, later(999)).unwrap();
    let error = scene.verify(&cert, later(1100)).unwrap_err();
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
fn bad_answers_are_not_cached() {
    let mut revoked = None;
    let scene = Scene::new(|ca| {
        revoked = Some(ca.leaf("revoked").build());
        revoked.clone()
    });
    let stranger = TestCa::new("somebody else").leaf("a").build();
    for cert in [&revoked.unwrap(), &stranger] {
        assert!(scene.verify(cert, UnixTime::now()).is_err());
        assert!(scene.verify(cert, UnixTime::now()).is_err());
    }
    assert_eq!(scene.misses(), 4);
}

#[test]
fn cache_is_bounded() {
    let scene = Scene::new(|_| None);
    let validity = Validity {
        from: 0,
        until: i64::MAX,
        lists_until: i64::MAX,
    };
    for number in 0..5 * GENERATION {
        let mut chain = [0; 32];
        chain[..8].copy_from_slice(&number.to_be_bytes());
        scene.verifier.keep(chain, validity);
        assert!(
            scene
                .verifier
                .cached(&chain, 1, Tolerance::default())
                .is_some()
        );
    }
    assert!(scene.verifier.verified.lock().len() <= 2 * GENERATION);
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
    let said = |authorities: &[&TestCa], lists: &[String], cert: &Cert| {
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
        said(&[&root], std::slice::from_ref(&root_list), &client),
        "`crl` holds no list of `CN=sub`: put the intermediate `CN=sub` into `client_ca`, and its \
         revocation list into `crl`"
    );
    assert_eq!(
        said(
            &[&root, &TestCa::new("other")],
            std::slice::from_ref(&root_list),
            &TestCa::new("other").leaf("b").build()
        )
        .split(':')
        .next(),
        Some("a signature does not fit")
    );
    let revoked = said(
        &[&root],
        &[root.crl_builder().revoke(sub.cert()).pem()],
        &client,
    );
    assert_eq!(
        revoked,
        "a certificate above the client's is revoked by the list of `CN=root` in \"0.crl\""
    );
    let brief = root.intermediate_with_validity("brief", -DAY, -5);
    let expired = said(&[&root], &[root_list], &brief.leaf("c").build());
    assert!(
        expired
            .starts_with("`CN=brief`, which the client sends above its certificate, expired at "),
        "{expired}"
    );
}
