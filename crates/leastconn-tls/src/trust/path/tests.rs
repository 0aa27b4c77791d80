//! Chain verification according to RFC 5280. Each chain is also presented in a TLS handshake.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, SanType, date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
};

use super::*;
use crate::trust::{CachingVerifier, ChainError, ChainVerifier, Pins, Tolerance};

mod constraints;
mod generated;
mod issuers;
mod spelling;

/// How a name is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    Same,
    Printable,
    Bmp,
    OtherCase,
    Blanks,
    OtherName,
}

impl Spelling {
    const ALL: [Self; 6] = [
        Self::Same,
        Self::Printable,
        Self::Bmp,
        Self::OtherCase,
        Self::Blanks,
        Self::OtherName,
    ];

    fn value(self, name: &str) -> DnValue {
        match self {
            Self::Same => DnValue::Utf8String(name.to_owned()),
            Self::Printable => DnValue::PrintableString(name.try_into().unwrap()),
            Self::Bmp => DnValue::BmpString(name.try_into().unwrap()),
            Self::OtherCase => DnValue::Utf8String(name.to_uppercase()),
            Self::Blanks => DnValue::Utf8String(format!(" {} ", name.replace(' ', "  "))),
            Self::OtherName => DnValue::Utf8String(format!("{name} 2")),
        }
    }
}

fn named(name: &str, spelling: Spelling) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, spelling.value(name));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params
}

fn authority(name: &str, spelling: Spelling) -> CertificateParams {
    let mut params = named(name, spelling);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn client(cn: &str) -> CertificateParams {
    let mut params = named(cn, Spelling::Same);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn critical(oid: &[u64], content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(true);
    extension
}

/// A certificate policies extension with `anyPolicy`.
fn policies() -> CustomExtension {
    critical(&[2, 5, 29, 32], b"\x30\x08\x30\x06\x06\x04\x55\x1d\x20\x00")
}

/// A root and a leaf. The issuer name in the leaf may have another encoding than the subject
/// of the root.
#[derive(Debug)]
struct Chain {
    root: CertificateDer<'static>,
    above: Vec<CertificateDer<'static>>,
    leaf: CertificateDer<'static>,
    key: KeyPair,
}

impl Chain {
    fn new(root: CertificateParams, leaf: CertificateParams, spelling: Spelling) -> Self {
        let root_key = KeyPair::generate().unwrap();
        let cert = root.self_signed(&root_key).unwrap();
        let mut issuer = root;
        issuer.distinguished_name = named("Field Enc CA", spelling).distinguished_name;
        let key = KeyPair::generate().unwrap();
        let leaf = leaf
            .signed_by(&key, &Issuer::new(issuer, root_key))
            .unwrap();
        Self {
            root: cert.der().clone(),
            above: Vec::new(),
            leaf: leaf.der().clone(),
            key,
        }
    }

    fn simple(leaf: CertificateParams) -> Self {
        Self::new(root(), leaf, Spelling::Same)
    }

    fn verifier(&self) -> ChainVerifier {
        let roots = [self.root.clone()];
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        ChainVerifier::new(&roots, Arc::default(), algorithms, Usage::Client).unwrap()
    }

    fn verify(&self) -> Result<(), ChainError> {
        let now = UnixTime::now();
        self.verifier()
            .verify(&self.leaf, &self.above, now, Tolerance::default())
            .map(drop)
    }

    fn error(&self) -> PathError {
        match self.verify() {
            Err(ChainError::Path(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Whether a TLS handshake accepts the chain.
    fn handshake(&self) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let own = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["lb".to_owned()])
            .unwrap()
            .self_signed(&own)
            .unwrap();
        let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
        let verifier = CachingVerifier::new(self.verifier(), Pins::default(), 8);
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let chain = [std::slice::from_ref(&self.leaf), &self.above].concat();
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let certified = rustls::sign::CertifiedKey::new(
            chain,
            provider.key_provider.load_private_key(key).unwrap(),
        );
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        let name = "lb".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                server.read_tls(&mut bytes).unwrap();
                if server.process_new_packets().is_err() {
                    return false;
                }
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        true
    }
}

fn root() -> CertificateParams {
    authority("Field Enc CA", Spelling::Same)
}

fn limited(permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>) -> CertificateParams {
    let mut root = root();
    root.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: excluded,
    });
    root
}

#[test]
fn critical_extensions_without_action_are_accepted() {
    let with = |extension: CustomExtension| {
        let mut leaf = client("c1");
        leaf.custom_extensions = vec![extension];
        Chain::simple(leaf)
    };
    for extension in [
        policies(),
        // First policyConstraints with only inhibitPolicyMapping, then inhibitAnyPolicy.
        critical(&[2, 5, 29, 36], b"\x30\x03\x81\x01\x00"),
        critical(&[2, 5, 29, 54], b"\x02\x01\x00"),
        critical(
            &[1, 3, 6, 1, 5, 5, 7, 1, 1],
            b"\x30\x12\x30\x10\x06\x08\x2b\x06\x01\x05\x05\x07\x30\x01\x86\x04http",
        ),
    ] {
        let chain = with(extension);
        chain.verify().unwrap();
        assert!(chain.handshake());
    }
    for (extension, oid) in [
        (critical(&[1, 2, 3, 4], b"\x05\x00"), "1.2.3.4"),
        // This policyConstraints extension requires an explicit policy.
        (
            critical(&[2, 5, 29, 36], b"\x30\x03\x80\x01\x00"),
            "2.5.29.36",
        ),
    ] {
        let chain = with(extension);
        let expected = PathError::Critical {
            name: "`CN=c1`".to_owned(),
            oid: oid.to_owned(),
        };
        assert_eq!(chain.error(), expected);
        assert!(!chain.handshake());
    }
}

#[test]
fn limits_of_trust_anchors_apply() {
    let mut anchor = root();
    anchor.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let chain = Chain::new(anchor.clone(), client("c1"), Spelling::Same);
    assert!(matches!(chain.error(), PathError::Purpose { .. }));
    anchor
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ClientAuth);
    Chain::new(anchor, client("c1"), Spelling::Same)
        .verify()
        .unwrap();

    for (limit, is_allowed) in [(0, false), (1, true)] {
        let mut chain = Chain::simple(client("unused"));
        let mut root = root();
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
        let root_key = KeyPair::generate().unwrap();
        chain.root = root.self_signed(&root_key).unwrap().der().clone();
        let key = KeyPair::generate().unwrap();
        let middle = authority("Middle CA", Spelling::Same);
        let der = middle
            .signed_by(&key, &Issuer::new(root, root_key))
            .unwrap();
        let leaf = client("c1")
            .signed_by(&chain.key, &Issuer::new(middle, key))
            .unwrap();
        chain.leaf = leaf.der().clone();
        chain.above = vec![der.der().clone()];
        match chain.verify() {
            Ok(()) => assert!(is_allowed),
            Err(error) => {
                assert!(!is_allowed);
                assert!(
                    error.to_string().contains("allows 0 intermediates"),
                    "{error}"
                );
            }
        }
    }
}
