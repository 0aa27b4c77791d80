use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error, RootCertStore};

use super::*;

fn verify(root: &TestCa, crls: &str, cert: &Cert) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.cert().der().clone()).unwrap();
    let crls = CertificateRevocationListDer::pem_slice_iter(crls.as_bytes()).map(Result::unwrap);
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(crls)
        .enforce_revocation_expiration()
        .build()
        .unwrap()
        .verify_client_cert(cert.der(), &cert.chain_der[1..], UnixTime::now())
        .map(drop)
}

fn refusal(root: &TestCa, crls: &str, cert: &Cert) -> CertificateError {
    match verify(root, crls, cert).unwrap_err() {
        Error::InvalidCertificate(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn leaves_verify_or_fail_as_intended() {
    let (ca, other) = (TestCa::new("root"), TestCa::new("root"));
    let crl = ca.crl(&[]);
    let good = ca.leaf("client1.lb.com").build();
    verify(&ca, &crl, &good).unwrap();
    verify(&ca, &crl, &ca.leaf("a").rsa().build()).unwrap();
    verify(&ca, &crl, &ca.leaf("a").no_cn().dns("a.b").build()).unwrap();

    assert_eq!(
        refusal(&ca, &ca.crl(&[&good]), &good),
        CertificateError::Revoked
    );
    let expired = ca.leaf("a").validity(-20, -10).build();
    assert!(matches!(
        refusal(&ca, &crl, &expired),
        CertificateError::ExpiredContext { .. }
    ));
    let early = ca.leaf("a").validity(3600, 7200).build();
    assert!(matches!(
        refusal(&ca, &crl, &early),
        CertificateError::NotValidYetContext { .. }
    ));
    let server = ca.leaf("a").eku_server_only().build();
    assert!(matches!(
        refusal(&ca, &crl, &server),
        CertificateError::InvalidPurposeContext { .. }
    ));
    assert!(verify(&ca, &crl, &other.leaf("a").build()).is_err());
    assert!(verify(&ca, &crl, &ca.leaf("a").self_signed().build()).is_err());
    assert!(verify(&ca, &crl, &TestCa::from_leaf(&good).leaf("a").build()).is_err());
    assert!(verify(&ca, &ca.crl_until(&[], -10), &good).is_err());
}

#[test]
fn intermediates_carry_their_chain_and_can_be_revoked() {
    let root = TestCa::new("root");
    let middle = root.intermediate("middle");
    let leaf = middle.intermediate("lower").leaf("a").build();
    assert_eq!(leaf.chain_der.len(), 3);
    let leaf = middle.leaf("a").build();
    verify(&root, &(root.crl(&[]) + &middle.crl(&[])), &leaf).unwrap();
    let crls = root.crl(&[middle.cert()]) + &middle.crl(&[]);
    assert_eq!(refusal(&root, &crls, &leaf), CertificateError::Revoked);
}

#[test]
fn unusual_subjects_keep_valid_signatures() {
    let ca = TestCa::new("root");
    let odd = [
        ca.leaf("one")
            .extra_cn("two")
            .extra_cn("three")
            .ou("ops")
            .build(),
        ca.leaf("one").joined_cn("two").build(),
        ca.leaf("").raw_cn_bytes(b"good\0.evil\r\n\xff").build(),
        ca.leaf("x").raw_cn_bytes(&[b'x'; 300]).build(),
        ca.leaf("gone")
            .no_cn()
            .uri("spiffe://lb.com/a")
            .email("a@b")
            .build(),
    ];
    for cert in &odd {
        verify(&ca, &ca.crl(&[]), cert).unwrap();
    }
    let contains = |cert: &Cert, bytes: &[u8]| cert.der().windows(bytes.len()).any(|w| w == bytes);
    assert!(contains(&odd[0], b"three") && contains(&odd[0], b"ops"));
    assert!(contains(&odd[2], b"good\0.evil\r\n\xff"));
    assert!(!contains(&odd[4], b"gone"));

    let dir = tempfile::tempdir().unwrap();
    odd[0].write(&dir, "odd");
    let args = ["x509", "-in", "odd.crt", "-noout", "-subject", "-serial"];
    let mut openssl = Command::new("openssl");
    let out = openssl.args(args).current_dir(&dir).output();
    let out = out.expect("the test needs openssl");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.contains("CN = one, CN = two, CN = three, OU = ops"),
        "{text}"
    );
    assert!(text.to_lowercase().contains(&odd[0].serial_hex), "{text}");
}
