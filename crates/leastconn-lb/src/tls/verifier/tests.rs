use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use leastconn_testkit::{TestCa, pki::Cert};
use rustls::{CertificateError, RootCertStore, server::WebPkiClientVerifier};

use super::*;

/// Counts how often it is asked.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn ClientCertVerifier>,
    asked: Arc<AtomicUsize>,
}

impl ClientCertVerifier for Counting {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inner
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("not asked for here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("not asked for here".to_owned()))
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Vec::new()
    }
}

struct Scene {
    ca: TestCa,
    verifier: Remembering,
    asked: Arc<AtomicUsize>,
}

impl Scene {
    fn new(revoked: impl FnOnce(&TestCa) -> Option<Cert>) -> Self {
        let ca = TestCa::new("verifier tests");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(ca.cert().der().clone()).unwrap();
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        let mut lists = Vec::new();
        if let Some(revoked) = revoked(&ca) {
            use rustls::pki_types::pem::PemObject;
            let pem = ca.crl(&[&revoked]);
            lists.push(CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap());
            builder = builder
                .with_crls(lists.clone())
                .enforce_revocation_expiration();
        }
        let asked = Arc::new(AtomicUsize::new(0));
        let counting = Counting {
            inner: builder.build().unwrap(),
            asked: Arc::clone(&asked),
        };
        Self {
            ca,
            verifier: Remembering::new(Arc::new(counting), lists_until(&lists)),
            asked,
        }
    }

    fn verify(&self, cert: &Cert, now: UnixTime) -> Result<(), Error> {
        let (leaf, above) = cert.chain_der.split_first().unwrap();
        self.verifier.verify_client_cert(leaf, above, now).map(drop)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn later(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + seconds))
}

#[test]
fn a_good_chain_is_verified_once() {
    let scene = Scene::new(|_| None);
    let cert = scene.ca.leaf("a").build();
    for _ in 0..3 {
        scene.verify(&cert, UnixTime::now()).unwrap();
    }
    assert_eq!(scene.asked(), 1);
    // Another certificate is another chain.
    scene
        .verify(&scene.ca.leaf("a").build(), UnixTime::now())
        .unwrap();
    assert_eq!(scene.asked(), 2);
}

#[test]
fn an_answer_does_not_outlive_the_certificate() {
    let scene = Scene::new(|_| None);
    let cert = scene.ca.leaf("a").validity(-100, 1000).build();
    scene.verify(&cert, UnixTime::now()).unwrap();
    scene.verify(&cert, later(900)).unwrap();
    assert_eq!(scene.asked(), 1);
    let error = scene.verify(&cert, later(1100)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
        ),
        "{error}"
    );
    // Nor does it hold before the certificate does, should the clock be set back.
    let past = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() - 1000));
    assert!(scene.verify(&cert, past).is_err());
}

#[test]
fn an_answer_does_not_outlive_the_revocation_list() {
    let scene = Scene::new(|ca| Some(ca.leaf("other").build()));
    let cert = scene.ca.leaf("a").validity(-100, 400 * 86_400).build();
    scene.verify(&cert, UnixTime::now()).unwrap();
    scene.verify(&cert, UnixTime::now()).unwrap();
    assert_eq!(scene.asked(), 1);
    let error = scene.verify(&cert, later(390 * 86_400)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::ExpiredRevocationListContext { .. })
        ),
        "{error}"
    );
}

#[test]
fn bad_answers_are_not_remembered() {
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
    assert_eq!(scene.asked(), 4);
}

#[test]
fn what_is_remembered_is_bounded() {
    let scene = Scene::new(|_| None);
    let validity = Validity {
        from: 0,
        until: u64::MAX,
    };
    for number in 0..3 * CAPACITY {
        let mut chain = [0; 32];
        chain[..8].copy_from_slice(&number.to_be_bytes());
        scene.verifier.remember(chain, validity);
        assert!(scene.verifier.is_known(&chain, 1));
    }
    assert!(scene.verifier.good.lock().unwrap().len() <= CAPACITY);
}
