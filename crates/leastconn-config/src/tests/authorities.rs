//! Which certificates of a CA file are trusted, and warnings about the other certificates.

use leastconn_testkit::TestCa;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{
    PLAIN,
    pki::{Pki, authority, by_name},
    reading,
};

const LISTENER: &str = r#"cert = "server.crt", key = "server.key", client_ca = "ca.crt""#;
const UPSTREAM: &str = r#"ca = "ca.crt""#;

fn listener() -> String {
    by_name(PLAIN.replace(
        "upstream = \"web\"\n",
        &format!("upstream = \"web\"\ntls = {{ {LISTENER} }}\n"),
    ))
}

fn upstream() -> String {
    let servers = "servers = [\"10.0.0.1:80\"";
    PLAIN.replace(servers, &format!("tls = {{ {UPSTREAM} }}\n{servers}"))
}

/// The CAs and the individually trusted certificates that are loaded from `ca.crt`.
fn trusted(pki: &Pki, text: &str) -> (Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>) {
    let config = reading(text, pki.dir.path()).config.unwrap();
    let of_listener = config.listeners[0].tls.as_ref();
    let of_upstream = config.upstreams[0].tls.as_ref();
    match (of_listener, of_upstream) {
        (Some(tls), _) => (tls.settings.material.client_ca.clone(), Vec::new()),
        (_, Some(tls)) => (
            tls.settings.material.ca.clone(),
            tls.settings.material.self_signed.clone(),
        ),
        _ => panic!("expected a listener or an upstream with TLS"),
    }
}

fn params(is_ca: IsCa, usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["x.com".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "x");
    params.is_ca = is_ca;
    params.key_usages = usages.to_vec();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

/// Certificates that are not CA certificates, each with the expected reason.
fn none(pki: &Pki) -> Vec<(String, &'static str)> {
    use KeyUsagePurpose::{DigitalSignature, KeyCertSign};
    let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
    let issued = |is_ca, usages: &[_]| {
        let key = KeyPair::generate().unwrap();
        params(is_ca, usages)
            .signed_by(&key, &pki.ca)
            .unwrap()
            .pem()
    };
    let long = 10 * 365 * 24 * 60 * 60;
    let issuer = TestCa::new("issuer");
    let old = issuer.leaf("x").validity(-long, long).version_1();
    vec![
        (
            issued(IsCa::ExplicitNoCa, &[DigitalSignature]),
            "its basic constraints say CA:FALSE",
        ),
        (
            issued(IsCa::ExplicitNoCa, &[KeyCertSign]),
            "its basic constraints say CA:FALSE",
        ),
        (
            issued(ca(), &[DigitalSignature]),
            "its key usage lacks keyCertSign",
        ),
        (
            issued(IsCa::NoCa, &[DigitalSignature]),
            "its key usage lacks keyCertSign",
        ),
        (
            issued(IsCa::NoCa, &[]),
            "it has neither basic constraints nor a key usage",
        ),
        (
            old.build().cert_pem,
            "it has X.509 version 1 and is not self-issued",
        ),
    ]
}

#[test]
fn certificates_of_non_cas_are_ignored_with_warning() {
    let pki = Pki::new();
    for (pem, why) in none(&pki) {
        for (text, ca) in [(listener(), "client_ca"), (upstream(), "ca")] {
            pki.write("ca.crt", pki.ca.pem() + &pem);
            assert_eq!(
                pki.problems_of(&text),
                [format!(
                    "warning: the certificate of `CN=x` is not a CA certificate: {why}; it is \
                     ignored: `{ca}` is for certificates of authorities"
                )]
            );
            assert_eq!(
                trusted(&pki, &text),
                (vec![pki.ca.der().clone()], Vec::new())
            );

            pki.write("ca.crt", &pem);
            let problems = pki.problems_of(&text);
            assert!(
                problems.contains(
                    &"error: \"ca.crt\" contains no valid authority; add the \
                      certificate of the authority that issues the certificates"
                        .to_owned()
                ),
                "{problems:#?}"
            );
        }
    }
}

#[test]
fn old_forms_of_ca_certificates_are_accepted() {
    use KeyUsagePurpose::KeyCertSign;
    let pki = Pki::new();
    let own = |is_ca, usages: &[_]| {
        let key = KeyPair::generate().unwrap();
        params(is_ca, usages).self_signed(&key).unwrap().pem()
    };
    for pem in [
        own(IsCa::Ca(BasicConstraints::Unconstrained), &[]),
        own(IsCa::Ca(BasicConstraints::Constrained(0)), &[KeyCertSign]),
        own(IsCa::NoCa, &[KeyCertSign]),
        TestCa::version_1("old").cert_pem(),
    ] {
        pki.write("ca.crt", &pem);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        for text in [listener(), upstream()] {
            assert_eq!(pki.problems_of(&text), Vec::<String>::new());
            assert_eq!(trusted(&pki, &text), (vec![der.clone()], Vec::new()));
        }
    }
}

/// Self-signed certificates of clients can only be trusted with `client_pins`.
#[test]
fn self_signed_certificate_is_trusted_for_servers_only() {
    let pki = Pki::new();
    let key = KeyPair::generate().unwrap();
    let own = params(IsCa::ExplicitNoCa, &[]).self_signed(&key).unwrap();
    let alone = "warning: the certificate of `CN=x` is not a CA certificate: its basic constraints \
                 say CA:FALSE; only this certificate itself is trusted, not certificates that its \
                 key signed";
    pki.write("ca.crt", own.pem());
    assert_eq!(pki.problems_of(&upstream()), [alone]);
    assert_eq!(
        trusted(&pki, &upstream()),
        (Vec::new(), vec![own.der().clone()])
    );
    let problems = pki.problems_of(&listener());
    assert!(
        problems
            .iter()
            .any(|line| line.starts_with("error: \"ca.crt\" contains no valid authority"))
    );

    let other = authority("other", 2020, 2040);
    pki.write("ca.crt", own.pem() + &other.pem());
    assert_eq!(
        trusted(&pki, &upstream()),
        (vec![other.der().clone()], vec![own.der().clone()])
    );
    assert_eq!(
        trusted(&pki, &listener()),
        (vec![other.der().clone()], Vec::new())
    );
}

#[test]
fn unknown_critical_ca_extension_is_a_warning() {
    let pki = Pki::new();
    let mut params = params(
        IsCa::Ca(BasicConstraints::Unconstrained),
        &[KeyUsagePurpose::KeyCertSign],
    );
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4, 5, 6], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
    let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    pki.write("ca.crt", cert.pem());
    for text in [listener(), upstream()] {
        assert_eq!(
            pki.problems_of(&text),
            [
                "warning: the certificate of `CN=x` has a critical extension that is not supported: \
                 1.2.3.4.5.6; it is trusted nevertheless; the extension is not enforced"
            ]
        );
        assert_eq!(trusted(&pki, &text).0, [cert.der().clone()]);
    }
}
