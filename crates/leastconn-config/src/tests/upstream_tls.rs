//! `tls` of upstreams: files, verification of servers, and diagnostics.

use std::fs;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::pki_types::ServerName;

use super::{
    PLAIN,
    pki::{Pki, authority, crl, server_params},
    reading,
};
use leastconn_tls::settings::MinVersion;

use crate::Config;

/// Keys of a `tls` table that refer to the files of [`pki`].
const ALL: &str = r#"ca = "ca.crt", crl = "ca.crl", cert = "lb.crt", key = "lb.key""#;

/// A valid set of files.
fn pki() -> Pki {
    let pki = Pki::new();
    client(&pki, |_| {});
    pki
}

/// Writes the client certificate of the balancer.
fn client(pki: &Pki, adjust: impl FnOnce(&mut rcgen::CertificateParams)) {
    let mut params = server_params();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = date_time_ymd(2028, 1, 1);
    adjust(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &pki.ca).unwrap();
    pki.write("lb.crt", certificate.pem());
    pki.write("lb.key", key.serialize_pem());
}

fn with_tls(tls: &str) -> String {
    let servers = "servers = [\"10.0.0.1:80\"";
    assert!(PLAIN.contains(servers));
    PLAIN.replace(servers, &format!("tls = {{ {tls} }}\n{servers}"))
}

fn config(pki: &Pki, text: &str) -> Config {
    let reading = reading(text, pki.dir.path());
    assert!(reading.problems.is_empty(), "{}", reading.problems);
    reading.config.unwrap()
}

#[test]
fn good_files_are_loaded() {
    let pki = pki();
    let text = with_tls(&format!(
        "{ALL}, server_name = \"web.internal\", min_version = \"1.3\""
    ));
    let config = config(&pki, &text);
    let tls = config.upstreams[0].tls.as_ref().unwrap();
    assert_eq!(tls.settings.min_version, MinVersion::Tls13);
    assert_eq!(tls.settings.material.ca, [pki.ca.der().clone()]);
    assert_eq!(tls.settings.material.crls.lists().len(), 1);
    assert_eq!(
        tls.settings.material.own.as_ref().unwrap().cert_chain.len(),
        1
    );
    let named: Vec<_> = config.files().collect();
    for file in ["leastconn.toml", "ca.crt", "ca.crl", "lb.crt", "lb.key"] {
        let of_that_name = named.iter().filter(|path| path.ends_with(file)).count();
        assert_eq!(of_that_name, 1, "{file} in {named:?}");
    }
    let files: Vec<_> = tls
        .files
        .iter()
        .map(|file| {
            let now = super::TODAY.parse().unwrap();
            format!("{} {}", file.name, file.deciding(now).unwrap().until)
        })
        .collect();
    assert_eq!(
        files,
        [
            "ca.crt 2040-01-01T00:00:00Z",
            "ca.crl 2027-01-01T00:00:00Z",
            "lb.crt 2028-01-01T00:00:00Z",
        ]
    );
    assert!(
        format!("{config:?}").contains("secret key elided"),
        "the debug format contains the private key"
    );
}

#[test]
fn server_name_defaults_to_the_server_host() {
    let pki = pki();
    let servers = |text: String| text.replace("\"10.0.0.2:80\"", "\"web2.internal:443\"");
    let names = |tls: &str| {
        let config = config(&pki, &servers(with_tls(tls)));
        let upstream = &config.upstreams[0];
        let tls = upstream.tls.as_ref().unwrap();
        assert_eq!(tls.settings.min_version, MinVersion::Tls12);
        let name_of =
            |server: &leastconn::ServerSpec| tls.settings.name_of(&server.address).unwrap();
        upstream.servers.iter().map(name_of).collect::<Vec<_>>()
    };
    let own = ["10.0.0.1", "web2.internal"];
    let named = ["web.internal"; 2];
    let by_address = ["10.1.1.1"; 2];
    for (tls, expected) in [
        ("ca = \"ca.crt\"", own),
        ("ca = \"ca.crt\", server_name = \"web.internal\"", named),
        ("ca = \"ca.crt\", server_name = \"10.1.1.1\"", by_address),
    ] {
        let expected: Vec<_> = expected
            .iter()
            .map(|name| ServerName::try_from(*name).unwrap())
            .collect();
        assert_eq!(names(tls), expected, "{tls}");
    }
}

#[test]
fn problems_are_reported_at_their_position() {
    let pki = pki();
    pki.write("other.key", KeyPair::generate().unwrap().serialize_pem());
    pki.write(
        "foreign.crl",
        crl(&authority("foreign", 2020, 2040), (2027, 1, 1))
            .pem()
            .unwrap(),
    );
    pki.write("old.crl", crl(&pki.ca, (2026, 6, 1)).pem().unwrap());
    pki.write("old.crt", authority("old CA", 2000, 2020).pem());
    for (tls, expected) in [
        ("server_name = \"a.b\"", "error: `upstream.tls` needs `ca`"),
        (
            "ca = \"nope.crt\"",
            "error: \"nope.crt\": No such file or directory",
        ),
        (
            "ca = \"lb.key\"",
            "error: \"lb.key\": there is no certificate in it; it contains a private key",
        ),
        (
            "ca = \"old.crt\"",
            "error: \"old.crt\" contains no valid authority",
        ),
        (
            "ca = \"ca.crt\", cert = \"lb.crt\"",
            "error: `cert` without `key`; \"lb.crt\" contains no private key",
        ),
        (
            "ca = \"ca.crt\", key = \"lb.key\"",
            "error: `key` without `cert`",
        ),
        (
            "ca = \"ca.crt\", cert = \"lb.crt\", key = \"other.key\"",
            "error: the key does not match the certificate",
        ),
        (
            "ca = \"ca.crt\", cert = \"lb.key\", key = \"lb.crt\"",
            "error: \"lb.key\": there is no certificate in it",
        ),
        (
            "ca = \"ca.crt\", crl = \"foreign.crl\"",
            "error: \"foreign.crl\": the CRL of `CN=foreign` is not signed by any authority of `ca`",
        ),
        (
            "ca = \"ca.crt\", crl = [\"ca.crl\", \"old.crl\"]",
            "error: \"old.crl\": the CRL of `CN=the CA` expired at 2026-06-01T00:00:00Z",
        ),
        (
            "ca = \"ca.crt\", server_name = \"web.internal:443\"",
            "error: \"web.internal:443\" is neither a DNS name nor an IP address",
        ),
        (
            "ca = \"ca.crt\", server_name = \"\"",
            "error: \"\" is neither a DNS name nor an IP address",
        ),
        (
            "ca = \"ca.crt\", min_version = \"1.1\"",
            "error: `min_version` cannot be \"1.1\"",
        ),
        (
            "ca = \"ca.crt\", client_ca = \"ca.crt\"",
            "error: unknown key `client_ca`",
        ),
    ] {
        let text = with_tls(tls);
        let all = pki.problems_of(&text);
        assert!(
            all.iter().any(|line| line.starts_with(expected)),
            "{tls}: {all:#?}\n  expected: {expected}"
        );
        // Determine the line of the `tls` table.
        let place = text
            .lines()
            .position(|line| line.starts_with("tls"))
            .unwrap()
            + 1;
        let told = reading(&text, pki.dir.path()).problems;
        assert!(told.errors() > 0);
        for line in told.lines() {
            assert!(line.contains(&format!(":{place}:")), "{tls}: {line}");
        }
    }
}

#[test]
fn invalid_server_host_needs_a_server_name() {
    let pki = pki();
    let text = with_tls("ca = \"ca.crt\"").replace("10.0.0.2:80", "web-.internal:443");
    let problems = pki.problems_of(&text);
    assert_eq!(
        problems,
        [
            "error: no certificate can contain `web-.internal`, the host of server \
             `web-.internal:443`; add `server_name`, a name that the servers' certificates \
             contain"
        ]
    );
    let named = text.replace("ca.crt\"", "ca.crt\", server_name = \"web.internal\"");
    assert_eq!(pki.problems_of(&named), Vec::<String>::new());
}

#[test]
fn unusual_certificates_are_warnings() {
    let pki = pki();
    for (from, to, expected) in [
        (
            2025,
            2026,
            "warning: the certificate of `CN=lb.com` expired at 2026-01-01T00:00:00Z; servers \
             that verify it will refuse it",
        ),
        (
            2027,
            2028,
            "warning: the certificate of `CN=lb.com` is not valid before 2027-01-01T00:00:00Z",
        ),
    ] {
        client(&pki, |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        });
        let all = pki.problems_of(&with_tls(ALL));
        assert!(all.len() == 1 && all[0].starts_with(expected), "{all:#?}");
    }
    client(&pki, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Client certificates need no SAN.
        params.subject_alt_names.clear();
    });
    assert_eq!(
        pki.problems_of(&with_tls(ALL)),
        [
            "warning: the extended key usage of the certificate that is presented to servers does \
             not include clientAuth; servers that verify it will refuse it"
        ]
    );
    fs::copy(
        pki.dir.path().join("server.crt"),
        pki.dir.path().join("ca.crt"),
    )
    .unwrap();
    let problems = pki.problems_of(&with_tls("ca = \"ca.crt\""));
    assert!(
        problems[0].contains("is not a CA certificate"),
        "{problems:#?}"
    );
}
