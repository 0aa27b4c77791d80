use std::sync::Arc;

use jiff::Timestamp;
use leastconn_testkit::{TestCa, pki::Cert};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
};
use x509_parser::{
    certificate::X509Certificate, extensions::IssuingDistributionPoint, prelude::FromDer,
    revocation_list::CertificateRevocationList,
};

use super::{
    scope::{Coverage, Points},
    *,
};

const DAY: i64 = 86_400;

fn encoded(pem: &str) -> EncodedList {
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    EncodedList::parse(der).unwrap()
}

fn loaded(cas: &[&TestCa], lists: &[String]) -> Vec<Loaded> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let each = lists.iter().enumerate().map(|(number, pem)| {
        let list = encoded(pem);
        let signed = cas
            .iter()
            .filter_map(|ca| list.signed_by(ca.cert().der(), algorithms.all).ok());
        Loaded {
            keys: signed.collect(),
            list: Arc::new(list.into_list()),
            file: format!("{number}.crl").into(),
        }
    });
    each.collect()
}

/// A store of `lists` (PEM). Each CRL is signed by one of `cas`.
pub(crate) fn store(cas: &[&TestCa], lists: &[String]) -> CrlStore {
    CrlStore::new(loaded(cas, lists)).0
}

fn key(ca: &TestCa) -> Box<[u8]> {
    let (_, parsed) = X509Certificate::from_der(ca.cert().der()).unwrap();
    parsed.public_key().raw.into()
}

fn status(store: &CrlStore, issuer: &TestCa, cert: &Cert) -> Status {
    let (_, parsed) = X509Certificate::from_der(cert.der()).unwrap();
    store.status(&parsed, &key(issuer), Role::EndEntity, Timestamp::now())
}

fn is_revoked(status: &Status) -> bool {
    matches!(status, Status::Revoked { .. })
}

fn is_good(status: &Status) -> bool {
    matches!(status, Status::Good { .. })
}

/// All permutations of `lists`.
fn orders(lists: &[String]) -> Vec<Vec<String>> {
    let Some((first, rest)) = lists.split_first() else {
        return vec![Vec::new()];
    };
    let mut all = Vec::new();
    for order in orders(rest) {
        for at in 0..=order.len() {
            let mut order = order.clone();
            order.insert(at, first.clone());
            all.push(order);
        }
    }
    all
}

#[test]
fn newest_crl_decides_in_any_order() {
    let ca = TestCa::new("ca");
    let [held, revoked, other] = ["held", "revoked", "other"].map(|cn| ca.leaf(cn).build());
    let lists = [
        ca.crl_builder()
            .number(1)
            .validity(-3 * DAY, DAY)
            .revoke(&held),
        // This CRL is newer than the next CRL by date, but its CRL number is lower.
        ca.crl_builder().number(255).validity(-DAY, DAY),
        ca.crl_builder()
            .number(256)
            .validity(-2 * DAY, DAY)
            .revoke(&revoked),
    ]
    .map(|list| list.pem());
    for order in orders(&lists) {
        let (store, superseded) = CrlStore::new(loaded(&[&ca], &order));
        assert!(is_revoked(&status(&store, &ca, &revoked)));
        assert!(
            is_good(&status(&store, &ca, &held)),
            "the newest CRL does not list `held`"
        );
        assert!(is_good(&status(&store, &ca, &other)));
        let younger = superseded.iter().filter(|one| one.is_younger_by_date);
        assert_eq!((superseded.len(), younger.count()), (2, 1));
    }
    // If the numbers are equal, the later date decides.
    let lists = [
        ca.crl_builder().validity(-2 * DAY, DAY),
        ca.crl_builder().validity(-DAY, DAY).revoke(&revoked),
    ]
    .map(|list| list.pem());
    for order in orders(&lists) {
        let store = store(&[&ca], &order);
        assert!(is_revoked(&status(&store, &ca, &revoked)));
        assert_eq!(store.lists().len(), 1);
    }
}

#[test]
fn newest_crl_decides_although_it_expires_first() {
    let ca = TestCa::new("ca");
    let cert = ca.leaf("a").build();
    let lists = [
        ca.crl_builder().number(1).validity(-3 * DAY, DAY).pem(),
        ca.crl_builder().number(2).validity(-2 * DAY, -DAY).pem(),
    ];
    let expired = status(&store(&[&ca], &lists), &ca, &cert);
    assert!(matches!(expired, Status::Expired { .. }), "{expired:?}");
}

#[test]
fn duplicate_crl_is_stored_once() {
    let ca = TestCa::new("ca");
    let pem = ca.crl_builder().pem();
    let (store, superseded) = CrlStore::new(loaded(&[&ca], &[pem.clone(), pem]));
    assert_eq!((store.lists().len(), superseded.len()), (1, 0));
}

#[test]
fn rekeyed_authority_has_a_crl_per_key() {
    let (old, new) = (TestCa::new("ca"), TestCa::new("ca"));
    let [of_old, of_new] = [&old, &new].map(|ca| ca.leaf("a").build());
    let lists = [
        old.crl_builder().number(9).revoke(&of_old).pem(),
        new.crl_builder().number(1).revoke(&of_new).pem(),
    ];
    for order in orders(&lists) {
        let store = store(&[&old, &new], &order);
        assert!(is_revoked(&status(&store, &old, &of_old)));
        assert!(is_revoked(&status(&store, &new, &of_new)));
        assert!(is_good(&status(&store, &old, &old.leaf("b").build())));
        assert!(is_good(&status(&store, &new, &new.leaf("b").build())));
    }
    let only_new = store(&[&old, &new], &lists[1..]);
    assert_eq!(
        status(&only_new, &old, &of_old),
        Status::Unknown(Missing::Key)
    );
}

#[test]
fn partitions_are_combined() {
    const ONE: &str = "http://crl.example/1.crl";
    const TWO: &str = "http://crl.example/2.crl";
    let ca = TestCa::new("ca");
    let [first, second] = [ONE, TWO].map(|uri| ca.leaf(uri).crl_distribution_point(uri).build());
    let nowhere = ca.leaf("nowhere").build();
    let lists = [
        ca.crl_builder().number(1).distribution_point(ONE).pem(),
        ca.crl_builder()
            .number(2)
            .distribution_point(ONE)
            .revoke(&first)
            .pem(),
        ca.crl_builder()
            .number(1)
            .distribution_point(TWO)
            .revoke(&nowhere)
            .pem(),
    ];
    for order in orders(&lists) {
        let store = store(&[&ca], &order);
        assert_eq!(store.lists().len(), 2);
        assert!(is_revoked(&status(&store, &ca, &first)));
        assert!(is_good(&status(&store, &ca, &second)));
        assert!(
            is_revoked(&status(&store, &ca, &nowhere)),
            "a CRL of any partition can revoke a certificate without a distribution point"
        );
    }
    let only_one = store(&[&ca], &lists[..2]);
    assert_eq!(
        status(&only_one, &ca, &second),
        Status::Unknown(Missing::Partition {
            lists: vec![ONE.to_owned()],
            certificate: vec![TWO.to_owned()],
        })
    );
    // A full CRL is used instead of the expired CRL of a partition.
    let lists = [
        ca.crl_builder()
            .distribution_point(ONE)
            .validity(-2 * DAY, -DAY)
            .pem(),
        ca.crl_builder().pem(),
    ];
    assert!(is_good(&status(&store(&[&ca], &lists), &ca, &first)));
    let expired = status(&store(&[&ca], &lists[..1]), &ca, &first);
    assert!(matches!(expired, Status::Expired { .. }), "{expired:?}");
}

#[test]
fn partition_does_not_cover_certificates_without_distribution_point() {
    const ONE: &str = "http://crl.example/1.crl";
    let ca = TestCa::new("ca");
    let [revoked, other] = ["revoked", "other"].map(|cn| ca.leaf(cn).build());
    let store = store(
        &[&ca],
        &[ca.crl_builder()
            .distribution_point(ONE)
            .revoke(&revoked)
            .pem()],
    );
    assert!(is_revoked(&status(&store, &ca, &revoked)));
    assert_eq!(
        status(&store, &ca, &other),
        Status::Unknown(Missing::Partition {
            lists: vec![ONE.to_owned()],
            certificate: Vec::new(),
        })
    );
}

#[test]
fn user_crl_covers_end_entities_only() {
    let point = IssuingDistributionPoint {
        distribution_point: None,
        only_contains_user_certs: true,
        only_contains_ca_certs: false,
        only_some_reasons: None,
        indirect_crl: false,
        only_contains_attribute_certs: false,
    };
    let scope = Scope::new(&point, &[0x30, 3, 0x81, 1, 0xff]);
    let uris = vec!["http://crl.example/1.crl".to_owned()];
    for points in [Points::Absent, Points::Uris(uris)] {
        assert_eq!(scope.covers(&points, Role::EndEntity), Coverage::Full);
        assert_eq!(scope.covers(&points, Role::Issuer), Coverage::None);
    }
}

#[test]
fn authorities_below_a_revoked_one_are_revoked() {
    let root = TestCa::new("root");
    let other = TestCa::new("other");
    let revoked = root.intermediate("revoked");
    let below = revoked.intermediate("below");
    let beside = root.intermediate("beside");
    let reissued = root.cross_sign(&revoked, "revoked");
    let store = store(&[&root], &[root.crl_builder().revoke(revoked.cert()).pem()]);
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let is_revoked = |authorities: &[CertificateDer<'static>]| -> Vec<bool> {
        let revoked = store.revoked_authorities(authorities, algorithms.all);
        revoked.iter().map(Option::is_some).collect()
    };
    let [root, other, revoked, below, beside] =
        [&root, &other, &revoked, &below, &beside].map(|ca| ca.cert().der().clone());
    let all = [below, revoked, beside, root, other];
    assert_eq!(is_revoked(&all), [true, true, false, false, false]);
    let with_reissued = [&all[..], &[reissued]].concat();
    assert_eq!(
        is_revoked(&with_reissued),
        [false, true, false, false, false, false],
        "an authority whose issuer also has a certificate that is not revoked stays valid"
    );
}

#[test]
fn authority_without_crl_sign_is_refused() {
    let ca = TestCa::without_crl_sign("ca");
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let list = encoded(&ca.crl_builder().pem());
    assert_eq!(
        list.signed_by(ca.cert().der(), algorithms.all),
        Err(SignatureError::NoCrlSign)
    );
    assert_eq!(
        list.signed_by(TestCa::new("ca").cert().der(), algorithms.all),
        Err(SignatureError::OtherKey)
    );
    assert_eq!(
        list.signed_by(TestCa::new("other").cert().der(), algorithms.all),
        Err(SignatureError::OtherName)
    );
}

#[test]
fn serial_numbers_are_compared_as_numbers() {
    let bytes: Vec<Vec<u8>> = (0..1000_u32)
        .map(|n| (n * 7).to_be_bytes().to_vec())
        .collect();
    let serials = Serials::new(bytes.iter().map(|bytes| without_zeros(bytes)).collect());
    for n in 0..7000_u32 {
        let wanted = n % 7 == 0;
        assert_eq!(serials.contain(&n.to_be_bytes()), wanted, "{n}");
        assert_eq!(serials.contain(without_zeros(&n.to_be_bytes())), wanted);
    }
    assert_eq!(serials.iter().count(), 1000);
}

#[test]
fn entries_are_those_of_the_whole_crl() {
    let ca = TestCa::new("ca");
    let certs: Vec<_> = (0..40).map(|n| ca.leaf(&format!("{n}")).build()).collect();
    for count in [0, 1, 2, 40] {
        let pem = ca.crl(&certs[..count].iter().collect::<Vec<_>>());
        let encoded = encoded(&pem);
        let (_, whole) = CertificateRevocationList::from_der(encoded.der()).unwrap();
        let entries: Vec<_> = whole.iter_revoked_certificates().collect();
        assert_eq!(entries.len(), count);
        let list = encoded.list();
        assert_eq!(list.serials().count(), count);
        assert!(
            entries
                .iter()
                .all(|entry| list.lists_serial(entry.raw_serial()))
        );
        assert!(EncodedList::is_crl(encoded.der()));
        // A CRL that ends too early, at any byte, is not accepted.
        let der = encoded.der().as_ref();
        for end in 0..der.len() {
            let part = CertificateRevocationListDer::from(der[..end].to_vec());
            assert!(EncodedList::parse(part).is_err());
        }
        // Neither is one with a byte after it.
        let longer = CertificateRevocationListDer::from([der, &[0]].concat());
        let error = EncodedList::parse(longer).unwrap_err();
        assert_eq!(error, "there are extra bytes after it");
    }
}

#[test]
fn malformed_entries_are_errors() {
    let ca = TestCa::new("ca");
    let cert = ca.leaf("a").build();
    let encoded = encoded(&ca.crl(&[&cert]));
    let serial = encoded.list().serials().next().unwrap();
    let der = encoded.der().as_ref();
    let at = der
        .windows(serial.len())
        .position(|bytes| bytes == serial)
        .unwrap();
    // The length of the serial number.
    for wrong in [0, 1, 0x7f, 0x80] {
        let mut der = der.to_vec();
        der[at - 1] = wrong;
        assert!(EncodedList::parse(der.into()).is_err(), "{wrong}");
    }
}
