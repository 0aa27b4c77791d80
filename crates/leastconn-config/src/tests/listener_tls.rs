//! `tls` of listeners: files and diagnostics.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};

use super::{
    TODAY,
    pki::{ALL, Pki, authority, crl, crl_of, server_params, with_tls},
    reading,
};
use leastconn_tls::settings::{ClientAuth, MinVersion};

#[test]
fn good_files_are_loaded() {
    let pki = Pki::new();
    let reading = reading(&with_tls(ALL), pki.dir.path());
    assert!(reading.problems.is_empty(), "{}", reading.problems);
    let config = reading.config.unwrap();
    let tls = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.settings.client_auth, ClientAuth::Required);
    assert_eq!(tls.settings.min_version, MinVersion::Tls12);
    assert_eq!(tls.settings.material.cert_chain.len(), 1);
    assert_eq!(tls.settings.material.client_ca, [pki.ca.der().clone()]);
    assert_eq!(tls.settings.material.crls.lists().len(), 1);
    let files: Vec<_> = tls
        .files
        .iter()
        .map(|file| {
            let now = TODAY.parse().unwrap();
            format!("{} {}", file.name, file.deciding(now).unwrap().until)
        })
        .collect();
    assert_eq!(
        files,
        [
            "server.crt 2027-01-01T00:00:00Z",
            "ca.crt 2040-01-01T00:00:00Z",
            "ca.crl 2027-01-01T00:00:00Z",
        ]
    );
    assert!(
        format!("{config:?}").contains("secret key elided"),
        "the debug format contains the private key"
    );
}

#[test]
fn certificate_and_key_can_be_in_one_file() {
    let pki = Pki::new();
    let read = |name: &str| fs::read_to_string(pki.dir.path().join(name)).unwrap();
    let (chain, key) = (read("server.crt"), read("server.key"));
    let combined = |text: String| {
        pki.write("server.pem", text);
        pki.problems("cert = \"server.pem\", client_ca = \"ca.crt\", crl = \"ca.crl\"")
    };
    assert_eq!(combined(format!("{chain}{key}")), Vec::<String>::new());
    assert_eq!(combined(format!("{key}{chain}")), Vec::<String>::new());
    for (text, expected) in [
        (
            chain.clone(),
            "error: `cert` without `key`; \"server.pem\" contains no private key",
        ),
        (
            format!("{chain}{}", KeyPair::generate().unwrap().serialize_pem()),
            "error: the key does not match the certificate",
        ),
        (
            format!("{chain}{key}{key}"),
            "error: \"server.pem\" contains 2 private keys",
        ),
    ] {
        let problems = combined(text);
        let [problem] = problems.as_slice() else {
            panic!("{problems:?}");
        };
        assert!(problem.starts_with(expected), "{problem}");
    }
}

#[test]
fn der_crl_and_several_crls_are_accepted() {
    let pki = Pki::new();
    pki.write("ca.der", crl(&pki.ca, (2027, 1, 1)).der());
    let tls = ALL.replace("\"ca.crl\"", "[\"ca.der\", \"ca.crl\"]");
    assert_eq!(pki.problems(&tls), Vec::<String>::new());
}

#[test]
fn unusable_files_are_errors() {
    let pki = Pki::new();
    pki.write("empty", "");
    pki.write("text", "hello\n");
    pki.write("der", pki.ca.der());
    pki.write(
        "broken",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    );
    let pem = pki.ca.pem();
    pki.write("short", &pem[..pem.len() - 30]);
    let key = KeyPair::generate().unwrap().serialize_pem();
    pki.write("joined-and-short", &key.replace('\n', "")[..100]);
    pki.write(
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    pki.write(
        "encrypted",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    pki.write(
        "old-encrypted",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
    );
    let key = KeyPair::generate().unwrap().serialize_pem();
    pki.write("two-keys", format!("{key}{key}"));
    pki.write("other.key", &key);
    for (from, to, expected) in [
        (
            "server.crt",
            "nope.crt",
            "error: \"nope.crt\": No such file or directory (os error 2); the file is DIR/nope.crt",
        ),
        ("server.crt", ".", "error: \".\": it is a directory"),
        (
            "server.crt",
            "/dev/null",
            "error: \"/dev/null\": it is a device, not a regular file",
        ),
        ("server.crt", "empty", "error: \"empty\": the file is empty"),
        (
            "server.crt",
            "text",
            "error: \"text\": there is no certificate in it; the file must be in PEM format",
        ),
        (
            "server.crt",
            "der",
            "error: \"der\": there is no certificate in it: this is a certificate in DER; convert it: `openssl x509 -inform DER",
        ),
        (
            "server.crt",
            "broken",
            "error: \"broken\": line 2: not well-formed PEM: the text between the `-----` lines is not \
             base64; was the file copied completely, and as text?",
        ),
        (
            "server.crt",
            "short",
            "error: \"short\": line 1: not well-formed PEM: the line `-----END CERTIFICATE-----` is \
             missing; the file is truncated: was it copied completely?",
        ),
        (
            "server.key",
            "joined-and-short",
            "error: \"joined-and-short\": line 1: not well-formed PEM: the line `-----END PRIVATE KEY-----` \
             is missing",
        ),
        (
            "server.crt",
            "nonsense",
            "error: \"nonsense\": certificate 1 of 1 cannot be read",
        ),
        (
            "server.crt",
            "server.key",
            "error: \"server.key\": there is no certificate in it; it contains a private key: are two files mixed up?",
        ),
        (
            "server.key",
            "server.crt",
            "error: \"server.crt\": there is no private key in it; it contains certificates: are two files mixed up?",
        ),
        (
            "server.key",
            "encrypted",
            "error: \"encrypted\": line 1: the private key is encrypted; decrypt it: `openssl pkey",
        ),
        (
            "server.key",
            "old-encrypted",
            "error: \"old-encrypted\": line 1: the private key is encrypted",
        ),
        (
            "server.key",
            "two-keys",
            "error: \"two-keys\" contains 2 private keys",
        ),
        (
            "server.key",
            "other.key",
            "error: the key does not match the certificate",
        ),
        (
            "ca.crl",
            "ca.crt",
            "error: \"ca.crt\": there is no CRL in it",
        ),
        (
            "ca.crl",
            "der",
            "error: \"der\": there is no CRL in it: this is a certificate in DER",
        ),
    ] {
        let actual = pki.problems(&ALL.replace(from, to));
        assert!(
            actual.len() == 1 && actual[0].contains(expected),
            "{to}: {actual:#?}\n  expected: {expected}"
        );
    }
}

#[test]
fn system_trust_store_is_never_used() {
    let pki = Pki::new();
    let own = r#"cert = "server.crt", key = "server.key""#;
    let problems = pki.problems(own);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with(
        "error: clients must present a certificate, but there is no `client_ca` to verify it"
    ));
    assert_eq!(
        pki.problems(&format!("{own}, client_auth = \"none\"")),
        Vec::<String>::new()
    );
    let problems = pki.problems(&format!("{own}, client_auth = \"none\", crl = \"ca.crl\""));
    assert_eq!(
        problems,
        ["error: a CRL needs `client_ca` with the authority that signed it"]
    );
    let problems = pki.problems(&format!("{ALL}, client_auth = \"none\""));
    assert!(
        problems[0].contains("`client_ca` has no effect"),
        "{problems:?}"
    );
}

#[test]
fn crl_must_be_current_and_signed_by_the_ca() {
    let pki = Pki::new();
    pki.write("ca.crl", crl(&pki.ca, (2026, 6, 1)).pem().unwrap());
    assert_eq!(
        pki.problems(ALL),
        [
            "error: \"ca.crl\": the CRL of `CN=the CA` expired at 2026-06-01T00:00:00Z; every \
          certificate of its issuer is refused (`crl_expired`); replace it with the current CRL of \
          the issuer"
        ]
    );
    // Use a CRL of a CA that has the same name and another key.
    pki.write(
        "ca.crl",
        crl(&authority("the CA", 2020, 2040), (2027, 1, 1))
            .pem()
            .unwrap(),
    );
    let problems = pki.problems(ALL);
    assert!(
        problems.len() == 1
            && problems[0].starts_with(
                "error: \"ca.crl\": the CRL of `CN=the CA` is not signed with the key that \
                 `CN=the CA` has in `client_ca`; its authority key identifier is "
            ),
        "{problems:?}"
    );
}

#[test]
fn all_cas_need_a_crl_if_one_has() {
    let pki = Pki::new();
    let other = authority("another CA", 2020, 2040);
    pki.write("ca.crt", pki.ca.pem() + &other.pem());
    assert_eq!(
        pki.problems(ALL),
        [
            "warning: there is no CRL of `CN=another CA`; other authorities have one, \
          so all certificates of this authority will be refused"
        ]
    );
}

#[test]
fn revoked_ca_is_a_warning() {
    let pki = Pki::new();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "below");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    // The first bit of the serial number is set, so DER encodes it with a leading zero
    // byte.
    params.serial_number = Some(SerialNumber::from(vec![0x91, 7]));
    let key = KeyPair::generate().unwrap();
    let below = params.signed_by(&key, &pki.ca).unwrap();
    pki.write("ca.crt", pki.ca.pem() + &below.pem());
    let list = |serial| crl_of(&pki.ca, (2027, 1, 1), Some(serial)).pem().unwrap();
    pki.write("ca.crl", list(SerialNumber::from(vec![0x91, 7])));
    assert_eq!(
        pki.problems(ALL),
        [
            "warning: `client_ca` holds `CN=below`, which the CRL of `CN=the CA` in \"ca.crl\" \
             revokes; every certificate below it is refused (`revoked_certificate`)"
        ]
    );
    pki.write("ca.crl", list(SerialNumber::from(vec![0x91, 8])));
    assert!(
        pki.problems(ALL)
            .iter()
            .all(|line| !line.contains("revokes"))
    );
}

#[test]
fn expired_ca_is_a_warning() {
    let pki = Pki::new();
    pki.write(
        "ca.crt",
        pki.ca.pem() + &authority("old CA", 2000, 2020).pem(),
    );
    let result = reading(&with_tls(ALL), pki.dir.path());
    let tls = result.config.unwrap().listeners[0].tls.clone().unwrap();
    // The verifier needs the expired CA to report the reason for a refusal.
    assert_eq!(tls.settings.material.client_ca.len(), 2);
    assert_eq!(
        pki.problems(ALL),
        [
            "warning: the certificate of `CN=old CA` expired at 2020-01-01T00:00:00Z; \
          certificates that it issued are refused (`expired_certificate`)"
        ]
    );
    pki.write("ca.crt", authority("old CA", 2000, 2020).pem());
    let problems = pki.problems(&ALL.replace(", crl = \"ca.crl\"", ""));
    assert!(
        problems
            .iter()
            .any(|line| line == "error: \"ca.crt\" contains no valid authority"),
        "{problems:#?}"
    );
}

#[test]
fn unusual_certificates_are_warnings() {
    let pki = Pki::new();
    let mut cases: Vec<(CertificateParams, &str)> = Vec::new();
    let mut params = server_params();
    params.not_after = date_time_ymd(2026, 6, 20);
    cases.push((
        params,
        "warning: the certificate of `CN=lb.com` expires at 2026-06-20T00:00:00Z",
    ));
    let mut params = server_params();
    params.not_after = date_time_ymd(2026, 6, 1);
    cases.push((
        params,
        "warning: the certificate of `CN=lb.com` expired at 2026-06-01T00:00:00Z",
    ));
    let mut params = server_params();
    params.not_before = date_time_ymd(2026, 7, 1);
    cases.push((
        params,
        "warning: the certificate of `CN=lb.com` is not valid before 2026-07-01",
    ));
    let mut params = server_params();
    params.subject_alt_names.clear();
    cases.push((
        params,
        "warning: the server's certificate has no subject alternative names",
    ));
    let mut params = server_params();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    cases.push((
        params,
        "warning: the extended key usage of the server's certificate does not include serverAuth",
    ));
    let mut params = server_params();
    let address = SanType::DnsName("10.0.0.7".try_into().unwrap());
    params.subject_alt_names.push(address);
    cases.push((
        params,
        "warning: the server's certificate contains an IP address as a DNS name: 10.0.0.7",
    ));
    for (params, expected) in cases {
        pki.server(params);
        let actual = pki.problems(ALL);
        assert!(
            actual.len() == 1 && actual[0].starts_with(expected),
            "{actual:#?}\n  expected: {expected}"
        );
    }

    let pki = Pki::new();
    let chain = fs::read_to_string(pki.dir.path().join("server.crt")).unwrap();
    pki.write(
        "server.crt",
        chain + &authority("stranger", 2020, 2040).pem(),
    );
    let problems = pki.problems(ALL);
    assert!(
        problems[0].contains("`CN=stranger` did not issue the preceding certificate"),
        "{problems:#?}"
    );

    pki.server(server_params());
    fs::copy(
        pki.dir.path().join("server.crt"),
        pki.dir.path().join("ca.crt"),
    )
    .unwrap();
    let problems = pki.problems(&ALL.replace(", crl = \"ca.crl\"", ""));
    assert!(
        problems[0].contains("is not a CA certificate"),
        "{problems:#?}"
    );
}

/// rustls would reject the key only when the listener starts.
#[test]
fn server_certificate_of_version_1_is_an_error() {
    let pki = Pki::new();
    let issuer = leastconn_testkit::TestCa::new("issuer");
    let leaf = issuer.leaf("lb.com").version_1().build();
    leaf.write(&pki.dir, "old");
    let old = ALL
        .replace("server.crt", "old.crt")
        .replace("server.key", "old.key");
    let problems = pki.problems(&old);
    assert!(
        problems.contains(
            &"error: the certificate, or one above it, is of X.509 version 1, which is not \
              supported: issue it again with extensions (`openssl x509 -req -extfile ...`)"
                .to_owned()
        ),
        "{problems:#?}"
    );
}

#[test]
fn files_are_reloaded_with_the_same_names() {
    let pki = Pki::new();
    for (from, to) in [("server.crt", "a \"b\" \\.crt"), ("ca.crl", "\u{fc}.crl")] {
        fs::copy(pki.dir.path().join(from), pki.dir.path().join(to)).unwrap();
    }
    let written = r#"cert = "a \"b\" \\.crt", key = "server.key", client_ca = "ca.crt", crl = ["ca.crl", "\u00fc.crl"], min_version = "1.3""#;
    let config = reading(&with_tls(written), pki.dir.path()).config.unwrap();
    let tls = config.listeners[0].tls.as_ref().unwrap();
    let now = TODAY.parse().unwrap();
    let (again, warnings) = tls.load_again("main", now).unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    assert_eq!(again, *tls);
    let files: Vec<_> = tls.table.files().collect();
    let names = [
        "a \"b\" \\.crt",
        "server.key",
        "ca.crt",
        "ca.crl",
        "\u{fc}.crl",
    ];
    assert_eq!(files, names.map(|name| pki.dir.path().join(name)));

    pki.write("server.key", "");
    let problems = tls.load_again("main", now).unwrap_err();
    let dir = pki.dir.path().display().to_string();
    let rendered = |problems: &crate::Problems| problems.to_string().replace(&dir, "DIR");
    assert_eq!(
        rendered(&problems),
        "\
error: \"server.key\": the file is empty
--> DIR/server.key (`tls` of listener `main`)"
    );
    let line = problems.lines().next().unwrap().replace(&dir, "DIR");
    assert_eq!(
        line,
        "DIR/server.key (`tls` of listener `main`): error: \"server.key\": the file is empty"
    );
    pki.server(server_params());
    let config = reading(
        &with_tls(r#"cert = "server.crt", key = "server.key", client_auth = "none""#),
        pki.dir.path(),
    );
    let config = config.config.unwrap();
    let tls = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.load_again("main", now).unwrap().0, *tls);
}

#[test]
fn resumption_is_off_by_default_and_bounded() {
    use std::time::Duration;
    let pki = Pki::new();
    let resumption = |more: &str| {
        let reading = reading(&with_tls(&format!("{ALL}{more}")), pki.dir.path());
        assert!(reading.problems.is_empty(), "{}", reading.problems);
        let config = reading.config.unwrap();
        config.listeners[0]
            .tls
            .as_ref()
            .unwrap()
            .settings
            .resumption
    };
    assert_eq!(resumption(""), None);
    assert_eq!(resumption(r#", resumption = "off""#), None);
    let on = r#", resumption = "on""#;
    assert_eq!(resumption(on), Some(Duration::from_hours(1)));
    let brief = format!(r#"{on}, resumption_lifetime = "90s""#);
    assert_eq!(resumption(&brief), Some(Duration::from_secs(90)));
    for (lifetime, expected) in [
        ("0s", "cannot be zero"),
        ("25h", "cannot be longer than a day"),
        ("soon", "`resumption_lifetime`"),
    ] {
        let wrong = format!(r#"{ALL}{on}, resumption_lifetime = "{lifetime}""#);
        let says = pki.problems(&wrong);
        assert!(says[0].contains(expected), "{says:?}");
    }
    let idle = format!(r#"{ALL}, resumption_lifetime = "1h""#);
    assert!(pki.problems(&idle)[0].contains("has no effect"));
}
