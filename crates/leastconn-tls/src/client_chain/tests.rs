use leastconn_testkit::TestCa;
use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject};

use super::*;
use crate::crl::EncodedList;

fn revoked_by(pem: &str) -> RevokedNames {
    let mut revoked = RevokedNames::default();
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    revoked.add(EncodedList::parse(der).unwrap().list());
    revoked
}

#[test]
fn equal_chains_are_stored_once_while_used() {
    let chains = Arc::new(ChainStore::default());
    let ca = TestCa::new("ca");
    let (a, b) = (ca.leaf("a").build(), ca.leaf("b").build());
    let first = chains.intern(a.chain_der.clone()).unwrap();
    let again = chains.intern(a.chain_der.clone()).unwrap();
    let other = chains.intern(b.chain_der).unwrap();
    assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &other));
    assert_eq!(first.certificate.cn.as_deref(), Some("a"));
    assert_eq!(chains.len(), 2);
    drop(first);
    assert_eq!(chains.len(), 2);
    drop(again);
    assert_eq!(chains.len(), 1);
    let returned = chains.intern(a.chain_der).unwrap();
    assert_eq!(chains.len(), 2);
    drop((returned, other));
    assert!(chains.is_empty());
}

#[test]
fn concurrent_connections_share_one_chain() {
    let chains = Arc::new(ChainStore::default());
    let ca = TestCa::new("ca");
    let leaves: Vec<_> = (0..3).map(|n| ca.leaf(&n.to_string()).build()).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..300 {
                    let leaf = &leaves[n % leaves.len()];
                    let shown = chains.intern(leaf.chain_der.clone()).unwrap();
                    assert_eq!(shown.chain(), leaf.chain_der);
                }
            });
        }
    });
    assert!(chains.is_empty());
}

#[test]
fn ambiguous_chain_is_not_stored() {
    let chains = Arc::new(ChainStore::default());
    let leaf = TestCa::new("ca").leaf("a").extra_cn("b").build();
    let refused = chains.intern(leaf.chain_der.clone()).unwrap_err();
    assert_eq!(refused.error, Ambiguous::SeveralCommonNames);
    assert_eq!(
        refused.chain, leaf.chain_der,
        "the chain is returned for diagnostics"
    );
    assert!(chains.is_empty());
}

#[test]
fn crls_name_certificates_by_issuer_and_serial() {
    let chains = Arc::new(ChainStore::default());
    let root = TestCa::new("root");
    let below = root.intermediate("below");
    let leaf = below.leaf("a").build();
    let other = below.leaf("b").build();
    let shown = chains.intern(leaf.chain_der.clone()).unwrap();
    assert!(shown.is_named_in(&revoked_by(&below.crl(&[&other, &leaf]))));
    assert!(!shown.is_named_in(&revoked_by(&below.crl(&[&other]))));
    // This CRL revokes the intermediate CA.
    assert!(shown.is_named_in(&revoked_by(&root.crl(&[below.cert()]))));
    // This CRL lists the serial number of the leaf, but has another issuer.
    assert!(!shown.is_named_in(&revoked_by(&root.crl(&[&leaf]))));
    assert!(!shown.is_named_in(&RevokedNames::default()));
}
