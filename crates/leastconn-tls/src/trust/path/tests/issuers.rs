//! Errors caused by an issuer's constraints or key must name that issuer.

use rcgen::{PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm};

use super::*;

/// An RSA key of 1024 bits.
struct WeakKey(Vec<u8>);

impl WeakKey {
    fn new() -> Self {
        let modulus = [&[0, 0xc1][..], &[0x5b; 127]].concat();
        let integers = [der::encode(2, &modulus), der::encode(2, &[1, 0, 1])].concat();
        Self(der::encode(0x30, &integers))
    }
}

impl PublicKeyData for WeakKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

fn dns(name: &str) -> GeneralSubtree {
    GeneralSubtree::DnsName(name.to_owned())
}

fn with_dns(cn: &str, name: &str) -> CertificateParams {
    let mut leaf = client(cn);
    leaf.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
    leaf
}

fn common_name_error(authority: &str) -> PathError {
    PathError::Constraint {
        authority: authority.to_owned(),
        kind: "common name (checked as a DNS name)",
        is_checked: true,
    }
}

#[test]
fn dns_constraints_hold_for_common_names() {
    let permitted = || limited(vec![dns("tenant.example")], vec![]);
    let excluded = || limited(vec![], vec![dns("lb.com")]);
    for (root, leaf, is_accepted) in [
        (permitted(), client("admin.lb.com"), false),
        (permitted(), client("ADMIN.lb.com"), false),
        (permitted(), client("nottenant.example"), false),
        (permitted(), client("a_b.lb-1.com"), false),
        (permitted(), client("tenant.example"), true),
        (permitted(), client("x.TENANT.example"), true),
        (excluded(), client("admin.LB.com"), false),
        (excluded(), client("lb.com"), false),
        (excluded(), client("admin.lb.org"), true),
        // These common names do not look like DNS names.
        (permitted(), client("admin"), true),
        (permitted(), client("Admin of lb.com"), true),
        (permitted(), client("admin..com"), true),
        (permitted(), client("-admin.com"), true),
        // If the certificate has a DNS name, the constraints do not apply to the common name.
        (
            permitted(),
            with_dns("admin.lb.com", "x.tenant.example"),
            true,
        ),
        (
            limited(vec![GeneralSubtree::Rfc822Name("x.com".to_owned())], vec![]),
            client("admin.lb.com"),
            true,
        ),
    ] {
        let chain = Chain::new(root, leaf, Spelling::Same);
        if is_accepted {
            chain.verify().unwrap();
        } else {
            assert_eq!(chain.error(), common_name_error("`CN=Field Enc CA`"));
        }
        assert_eq!(chain.handshake(), is_accepted);
    }
}

/// A leaf below an intermediate, which is below a root.
fn below(
    middle: CertificateParams,
    middle_key: &impl PublicKeyData,
    leaf: CertificateParams,
) -> Chain {
    let mut chain = Chain::simple(client("unused"));
    let root_key = KeyPair::generate().unwrap();
    chain.root = root().self_signed(&root_key).unwrap().der().clone();
    let issuer = Issuer::new(root(), root_key);
    let above = middle.signed_by(middle_key, &issuer).unwrap();
    chain.above = vec![above.der().clone()];
    let key = KeyPair::generate().unwrap();
    let leaf = leaf
        .signed_by(&chain.key, &Issuer::new(middle, key))
        .unwrap();
    chain.leaf = leaf.der().clone();
    chain
}

#[test]
fn dns_constraints_of_intermediates_hold_for_common_names() {
    let key = KeyPair::generate().unwrap();
    let mut middle = authority("Tenant CA", Spelling::Same);
    middle.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![dns("tenant.example")],
        excluded_subtrees: vec![],
    });
    for (cn, is_accepted) in [("admin.lb.com", false), ("c1.tenant.example", true)] {
        let mut chain = below(middle.clone(), &key, client(cn));
        let copy = KeyPair::try_from(key.serialize_der()).unwrap();
        let leaf = client(cn)
            .signed_by(&chain.key, &Issuer::new(middle.clone(), copy))
            .unwrap();
        chain.leaf = leaf.der().clone();
        if is_accepted {
            chain.verify().unwrap();
        } else {
            assert_eq!(chain.error(), common_name_error("`CN=Tenant CA`"));
        }
    }
}

/// The error for a leaf below `all[issuer]`. Checks that the error does not depend on the order
/// of the authorities.
fn error_below(all: &[CertificateParams], issuer: usize, leaf: CertificateParams) -> PathError {
    let keys: Vec<_> = all.iter().map(|_| KeyPair::generate().unwrap()).collect();
    let ders = all.iter().zip(&keys);
    let mut ders: Vec<_> = ders
        .map(|(params, key)| params.self_signed(key).unwrap().der().clone())
        .collect();
    let own = KeyPair::generate().unwrap();
    let leaf = leaf
        .signed_by(&own, &Issuer::from_params(&all[issuer], &keys[issuer]))
        .unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut errors = (0..2).map(|_| {
        let verifier = ChainVerifier::new(
            &ders,
            Arc::default(),
            provider.signature_verification_algorithms,
            Usage::Client,
        );
        ders.reverse();
        let verified =
            verifier
                .unwrap()
                .verify(leaf.der(), &[], UnixTime::now(), Tolerance::default());
        match verified {
            Err(ChainError::Path(error)) => error,
            other => panic!("{other:?}"),
        }
    });
    let error = errors.next().unwrap();
    assert_eq!(errors.next(), Some(error.clone()));
    error
}

#[test]
fn constraint_error_names_the_authority_above() {
    let limited_to = |name: &str, subtree: GeneralSubtree| {
        let mut params = authority(name, Spelling::Same);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![subtree],
            excluded_subtrees: vec![],
        });
        params
    };
    let network = GeneralSubtree::IpAddress(rcgen::CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0]));
    let all = [
        limited_to("A", dns("a.com")),
        limited_to("B", dns("b.com")),
        limited_to("C", network),
    ];
    let mut at_address = client("c1");
    at_address.subject_alt_names = vec![SanType::IpAddress([192, 0, 2, 1].into())];
    for (issuer, leaf, name, kind) in [
        (0, with_dns("c1", "b.com"), "`CN=A`", "DNS names"),
        (1, with_dns("c1", "a.com"), "`CN=B`", "DNS names"),
        (2, at_address, "`CN=C`", "IP addresses"),
    ] {
        let expected = PathError::Constraint {
            authority: name.to_owned(),
            kind,
            is_checked: true,
        };
        assert_eq!(error_below(&all, issuer, leaf), expected);
    }
}

#[test]
fn weak_keys_of_issuers_are_named() {
    let weak = WeakKey::new();
    let chain = below(authority("Middle CA", Spelling::Same), &weak, client("c1"));
    let error = |name: &str, is_authority| PathError::IssuerKey {
        name: name.to_owned(),
        is_authority,
        kind: "an RSA key of 1024 bits".to_owned(),
    };
    assert_eq!(chain.error(), error("`CN=Middle CA`", false));
    assert!(!chain.handshake());
    // Configure the intermediate as an authority.
    let trusted = Chain {
        root: chain.above[0].clone(),
        above: Vec::new(),
        ..chain
    };
    assert_eq!(trusted.error(), error("`CN=Middle CA`", true));
    assert!(!trusted.handshake());
    let text = trusted.error().to_string();
    assert!(text.contains("`CN=Middle CA`"), "{text}");
    assert!(text.contains("RSA key of 1024 bits"), "{text}");
}

#[test]
fn bad_signature_is_not_attributed_to_weak_key() {
    let strong = KeyPair::generate().unwrap();
    // The leaf is not signed with the key of the intermediate.
    let chain = below(
        authority("Middle CA", Spelling::Same),
        &strong,
        client("c1"),
    );
    let error = chain.verify().unwrap_err();
    assert!(matches!(error, ChainError::Issuer(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("names the intermediate `CN=Middle CA` as its issuer"),
        "{text}"
    );
}
