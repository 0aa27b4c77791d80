use std::sync::Arc;

use leastconn_testkit::{TestCa, pki::Cert};
use rustls::pki_types::UnixTime;

use super::{
    signatures::{MAX_FAILURES, cost},
    *,
};
use crate::{
    crl::CrlStore,
    trust::{ChainVerifier, Tolerance, Usage},
};

struct Limits {
    chains: ChainVerifier,
    issuers: IssuerSelection,
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

fn limits(root: &TestCa) -> Limits {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let authorities = [root.cert().der().clone()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authorities[0].clone()).unwrap();
    let lists = Arc::new(CrlStore::default());
    let chains = ChainVerifier::new(&authorities, lists, algorithms, Usage::Client);
    Limits {
        chains: chains.unwrap(),
        issuers: IssuerSelection::new(&authorities),
        anchors: roots.roots,
        algorithms: algorithms.all,
    }
}

impl Limits {
    fn select(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'static>],
    ) -> Vec<CertificateDer<'static>> {
        let mut failures = Failures::default();
        let (anchors, algorithms) = (&self.anchors, self.algorithms);
        let selected = self
            .issuers
            .select(leaf, above, anchors, algorithms, &mut failures);
        // A second verification does not repeat the failed checks.
        let spent = failures.spent;
        let again = self
            .issuers
            .select(leaf, above, anchors, algorithms, &mut failures);
        assert_eq!(spent, failures.spent);
        assert!(selected.len() == again.len() || spent >= MAX_FAILURES);
        selected
            .iter()
            .map(|der| der.clone().into_owned())
            .collect()
    }
}

fn accepts(limits: &Limits, leaf: &Cert, above: &[CertificateDer<'static>]) -> bool {
    let verified = limits
        .chains
        .verify(leaf.der(), above, UnixTime::now(), Tolerance::default());
    verified.is_ok()
}

#[test]
fn outline_agrees_with_a_full_parser() {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let ca = TestCa::new("outline");
    for cert in [
        ca.cert().clone(),
        ca.leaf("client").dns("a.example").build(),
        ca.leaf("client").rsa().build(),
        ca.leaf("client").version_1().build(),
    ] {
        let outline = Outline::parse(cert.der()).unwrap();
        let (_, full) = X509Certificate::from_der(cert.der()).unwrap();
        assert_eq!(outline.signed, full.tbs_certificate.as_ref());
        assert_eq!(outline.signature, &*full.signature_value.data);
        assert!(full.issuer().as_raw().ends_with(outline.issuer));
        assert!(full.subject().as_raw().ends_with(outline.subject));
        assert!(full.public_key().raw.ends_with(outline.key.bits));
    }
}

#[test]
fn outline_of_damaged_certificates_does_not_panic() {
    let ca = TestCa::new("outline");
    let leaf = ca.leaf("client").dns("a.example").build();
    for length in 0..leaf.der().len() {
        assert_eq!(Outline::parse(&leaf.der()[..length]), None);
    }
    for n in 0..leaf.der().len() {
        let mut damaged = leaf.der().to_vec();
        for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
            damaged[n] = byte;
            let _ = Outline::parse(&damaged);
        }
    }
}

/// Real clients send chains in any order, with duplicates, with the root, with certificates
/// of other hierarchies, and with several certificates of one CA.
#[test]
fn chains_of_real_clients_are_accepted() {
    let root = TestCa::new("root");
    let limits = limits(&root);
    let first = root.intermediate("first");
    let second = first.intermediate("second");
    let leaf = second.leaf("client").build();
    let certificates = |cas: &[&TestCa]| -> Vec<CertificateDer<'static>> {
        cas.iter().map(|ca| ca.cert().der().clone()).collect()
    };
    let foreign = TestCa::new("foreign");
    let foreign_cross = foreign.cross_sign(&first, "first");
    for above in [
        certificates(&[&second, &first]),
        certificates(&[&first, &second]),
        certificates(&[&second, &first, &root]),
        certificates(&[&root, &first, &second]),
        certificates(&[&second, &second, &first, &first]),
        certificates(&[&foreign, &second, &first]),
        [
            certificates(&[&second]),
            vec![foreign_cross.clone()],
            certificates(&[&first]),
        ]
        .concat(),
        [
            vec![foreign_cross.clone()],
            certificates(&[&foreign, &first, &second, &root]),
        ]
        .concat(),
        [vec![leaf.der().clone()], certificates(&[&second, &first])].concat(),
    ] {
        assert!(accepts(&limits, &leaf, &above), "{}", above.len());
    }
    assert!(!accepts(
        &limits,
        &leaf,
        &certificates(&[&second, &foreign])
    ));
}

#[test]
fn cross_signed_hierarchies_lead_to_either_root() {
    let (old, new) = (TestCa::new("old root"), TestCa::new("new root"));
    let issuing = new.intermediate("issuing");
    let leaf = issuing.leaf("client").build();
    let above = vec![
        issuing.cert().der().clone(),
        old.cross_sign(&new, "new root"),
        new.cert().der().clone(),
    ];
    assert!(accepts(&limits(&old), &leaf, &above));
    assert!(accepts(&limits(&new), &leaf, &above));
    assert!(!accepts(&limits(&TestCa::new("new root")), &leaf, &above));
}

#[test]
fn longest_chain_of_one_hierarchy_is_accepted() {
    let root = TestCa::new("root");
    let mut ca = root.intermediate("1");
    for n in 2..=6 {
        ca = ca.intermediate(&n.to_string());
    }
    let leaf = ca.leaf("client").build();
    assert!(accepts(&limits(&root), &leaf, &leaf.chain_der[1..]));
}

/// Certificates that a client can issue itself are not passed to webpki.
#[test]
fn self_made_certificates_are_not_selected() {
    let root = TestCa::new("root");
    let limits = limits(&root);
    for name in ["maze", "root"] {
        let maze: Vec<_> = (0..8).map(|_| TestCa::new(name)).collect();
        let above: Vec<_> = maze.iter().map(|ca| ca.cert().der().clone()).collect();
        let leaf = maze[0].leaf("client").build();
        assert_eq!(limits.select(leaf.der(), &above), []);
        assert!(!accepts(&limits, &leaf, &above));
    }
    // The real intermediate did not issue the leaf.
    let issuing = root.intermediate("issuing");
    let impostor = TestCa::new("issuing");
    let leaf = impostor.leaf("client").build();
    let above = [issuing.cert().der().clone(), impostor.cert().der().clone()];
    assert_eq!(limits.select(leaf.der(), &above), []);
}

#[test]
fn failed_signature_checks_are_bounded() {
    let key = |length| PublicKey {
        algorithm: &[],
        bits: if length == 65 { &[0; 65] } else { &[0; 1030] },
    };
    assert_eq!(cost(&key(65), &[0; 500]), 1);
    assert!(cost(&key(1030), &[0; 500]) > 4);
    assert!(cost(&key(65), &[0; 60_000]) > 1);
    let root = TestCa::new("root");
    let limits = limits(&root);
    let impostors: Vec<_> = (0..40)
        .map(|_| TestCa::new("root").intermediate("issuing"))
        .collect();
    let real = root.intermediate("issuing");
    let leaf = real.leaf("client").build();
    let mut above: Vec<_> = impostors.iter().map(|ca| ca.cert().der().clone()).collect();
    above.push(real.cert().der().clone());
    // The budget is used up before the real intermediate is checked.
    assert_eq!(limits.select(leaf.der(), &above), []);
    above.reverse();
    assert!(accepts(&limits, &leaf, &above));
}
