//! Which CRLs are used, and diagnostics about the other CRLs.

use leastconn_testkit::pki::{crl_version_1, crl_without_next_update};
use rcgen::{
    CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    SerialNumber, date_time_ymd,
};

use std::env::VarError;

use super::super::{Problems, read_text};
use super::{
    PLAIN, TODAY,
    pki::{ALL, Authority, Pki, authority, by_name, crl},
    reading,
};

/// Each key is on a separate line, so that positions differ.
fn text() -> String {
    let tls = "\n[listener.tls]\ncert = \"server.crt\"\nkey = \"server.key\"\n\
               client_ca = \"ca.crt\"\ncrl = \"ca.crl\"\n";
    by_name(PLAIN.replace(
        "upstream = \"web\"\n",
        &format!("upstream = \"web\"\n{tls}"),
    ))
}

fn place() -> usize {
    let text = text();
    let line = text.lines().position(|line| line.starts_with("crl"));
    line.unwrap() + 1
}

fn list(by: &Authority, number: SerialNumber, from: i32) -> Vec<u8> {
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(from, 1, 1),
        next_update: date_time_ymd(2028, 1, 1),
        crl_number: number,
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(by).unwrap().der().to_vec()
}

#[test]
fn invalid_crls_are_reported_at_their_key() {
    let pki = Pki::new();
    let good = crl(&pki.ca, (2027, 1, 1)).der().to_vec();
    for (der, expected) in [
        (
            crl_version_1(&good, pki.ca.key()),
            "error: \"ca.crl\": the CRL of `CN=the CA` has version 1, which is not supported; it lacks the \
             required extensions; issue it again with `crlnumber` and `crl_extensions` in the \
             configuration of `openssl ca`",
        ),
        (
            crl_without_next_update(&good, pki.ca.key()),
            "error: \"ca.crl\": the CRL of `CN=the CA` has no `nextUpdate`, the time of its expiry; issue it again with \
             `nextUpdate`: `openssl ca -gencrl -crldays 7`",
        ),
        (
            list(&pki.ca, SerialNumber::from(vec![1; 25]), 2025),
            "error: \"ca.crl\": the CRL of `CN=the CA` cannot be used: invalid crl number",
        ),
        (
            list(&pki.ca, SerialNumber::from(1), 2027),
            "warning: \"ca.crl\": the CRL of `CN=the CA` was issued at 2027-01-01T00:00:00Z, which is in the future; it is \
             used nevertheless: check the clocks of the issuer and of this machine",
        ),
        (
            good[..good.len() - 1].to_vec(),
            "error: \"ca.crl\": there is no CRL in it: this looks like truncated or \
             damaged DER; was the file copied completely, and in binary mode?",
        ),
    ] {
        pki.write("ca.crl", der);
        assert_eq!(pki.problems_of(&text()), [expected]);
        let told = reading(&text(), pki.dir.path()).problems;
        let line = told.lines().next().unwrap();
        assert!(line.contains(&format!(":{}:7: ", place())), "{line}");
    }
}

/// The text of a reloaded table exists only in memory, so positions in it would not help
/// users.
#[test]
fn problems_of_reloaded_crls_name_the_file() {
    let pki = Pki::new();
    let config = reading(&text(), pki.dir.path()).config.unwrap();
    let tls = config.listeners[0].tls.as_ref().unwrap();
    let good = crl(&pki.ca, (2027, 1, 1)).der().to_vec();
    pki.write("ca.crl", crl_version_1(&good, pki.ca.key()));
    let problems = tls.load_again("main", TODAY.parse().unwrap()).unwrap_err();
    let lines: Vec<_> = problems.lines().collect();
    let path = pki.dir.path().join("ca.crl").display().to_string();
    let problems = format!(
        "{path} (`tls` of listener `main`): error: \"ca.crl\": the CRL of `CN=the CA` has version 1"
    );
    assert!(
        lines.len() == 1 && lines[0].starts_with(&problems),
        "{lines:#?}"
    );
}

/// A CRL that is valid between two dates (month, day) of 2026.
fn list_between(by: &Issuer<'_, KeyPair>, number: u64, from: (u8, u8), to: (u8, u8)) -> String {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, from.0, from.1),
        next_update: date_time_ymd(2026, to.0, to.1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(by).unwrap().pem().unwrap()
}

#[test]
fn older_crl_is_ignored_with_a_warning() {
    let pki = Pki::new();
    // The older CRL has expired. An expired CRL that is ignored is not an error.
    pki.write("old.crl", list_between(&pki.ca, 1, (5, 1), (5, 30)));
    pki.write("new.crl", list_between(&pki.ca, 2, (6, 1), (9, 1)));
    for order in ["\"old.crl\", \"new.crl\"", "\"new.crl\", \"old.crl\""] {
        let tls = ALL.replace("crl = \"ca.crl\"", &format!("crl = [{order}]"));
        assert_eq!(
            pki.problems(&tls),
            [
                "warning: \"old.crl\": the CRL of `CN=the CA` is older than another one and is ignored: \
                 number 1 of 2026-05-01T00:00:00Z; the list in force is number 2 of 2026-06-01T00:00:00Z \
                 in \"new.crl\""
            ]
        );
    }
}

#[test]
fn expired_crl_among_several_is_named() {
    let pki = Pki::new();
    let others = ["one", "two"].map(|name| authority(name, 2020, 2040));
    let authorities: String = others.iter().map(|other| other.pem()).collect();
    pki.write("ca.crt", pki.ca.pem() + &authorities);
    let lists = [
        list_between(&pki.ca, 1, (6, 1), (9, 1)),
        list_between(&others[0], 1, (5, 1), (5, 30)),
        list_between(&others[1], 1, (6, 1), (9, 1)),
    ];
    pki.write("ca.crl", lists.concat());
    let problems = pki.problems(ALL);
    assert!(
        problems.len() == 1
            && problems[0].starts_with(
                "error: \"ca.crl\": the CRL of `CN=one` (CRL 2 of 3) expired at \
                 2026-05-30T00:00:00Z"
            ),
        "{problems:?}"
    );
}

#[test]
fn crl_that_expires_soon_is_a_warning() {
    let pki = Pki::new();
    // The current time is noon of June 15.
    for (from, to, warned) in [
        ((6, 10), (7, 10), false),
        ((5, 21), (6, 20), true),
        ((6, 15), (6, 16), false),
        ((6, 1), (6, 16), true),
    ] {
        pki.write("ca.crl", list_between(&pki.ca, 1, from, to));
        let problems = pki.problems(ALL);
        let is_warned = problems.iter().any(|line| {
            line.starts_with("warning: \"ca.crl\": the CRL of `CN=the CA` expires at 2026-")
        });
        assert_eq!(
            (is_warned, problems.len()),
            (warned, usize::from(warned)),
            "{problems:?}"
        );
    }
}

#[test]
fn reason_for_an_unsigned_crl_is_reported() {
    let pki = Pki::new();
    let good = list_between(&pki.ca, 1, (6, 1), (9, 1));
    // Change ecdsa-with-SHA256 to ecdsa-with-SHA224 in both places where the CRL names its
    // signature algorithm.
    let mut der = crl(&pki.ca, (2027, 1, 1)).der().to_vec();
    let oid = b"\x2a\x86\x48\xce\x3d\x04\x03\x02";
    while let Some(at) = der.windows(oid.len()).position(|window| window == oid) {
        der[at + oid.len() - 1] = 1;
    }
    pki.write("ca.crl", der);
    let problems = pki.problems(ALL);
    assert!(
        problems[0].starts_with(
            "error: \"ca.crl\": the CRL of `CN=the CA` is signed with SHA-224, which is not \
             supported; sign it with SHA-256 or better"
        ),
        "{problems:?}"
    );

    let below = authority("below", 2020, 2040);
    pki.write("ca.crl", good + &list_between(&below, 1, (6, 1), (9, 1)));
    let problems = pki.problems(ALL);
    assert!(
        problems[0].starts_with(
            "error: \"ca.crl\": the CRL of `CN=below` (CRL 2 of 2) is not signed by any \
             authority of `client_ca`; `CN=below` is not in `client_ca`; if `CN=below` is an \
             intermediate that issues certificates, add its certificate to `client_ca`"
        ),
        "{problems:?}"
    );
}

#[test]
fn ca_without_crl_sign_cannot_sign_crls() {
    let pki = Pki::new();
    let mut params = super::pki::server_params();
    params
        .distinguished_name
        .push(DnType::CommonName, "no lists");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.extended_key_usages.clear();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    // rcgen refuses to sign a CRL without this key usage.
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    let issuer = Issuer::new(params, key);
    pki.write("ca.crt", pki.ca.pem() + &certificate.pem());
    let lists =
        list_between(&pki.ca, 1, (6, 1), (9, 1)) + &list_between(&issuer, 1, (6, 1), (9, 1));
    pki.write("ca.crl", lists);
    let problems = pki.problems(ALL);
    assert!(
        problems[0].contains("is signed by an authority whose key usage lacks cRLSign; issue the"),
        "{problems:?}"
    );
}

#[test]
fn expired_crl_is_a_warning_for_explain() {
    let pki = Pki::new();
    pki.write("ca.crl", list_between(&pki.ca, 1, (5, 1), (5, 30)));
    let path = pki.dir.path().join("leastconn.toml");
    std::fs::write(&path, text()).unwrap();
    assert!(crate::load(&path).is_err());
    let loaded = crate::load_with_expired(&path).unwrap();
    let warnings: Vec<_> = loaded.warnings.lines().collect();
    assert!(
        warnings
            .iter()
            .any(|line| line.contains("expired at 2026-05-30")),
        "{warnings:?}"
    );
}

#[test]
fn too_many_cas_are_a_warning() {
    let pki = Pki::new();
    let long = |number: usize| authority(&format!("{number}{}", "x".repeat(500)), 2020, 2040);
    let many: String = (0..70).map(|number| long(number).pem()).collect();
    pki.write("ca.crt", pki.ca.pem() + &many);
    let problems = pki.problems(&ALL.replace(", crl = \"ca.crl\"", ""));
    assert!(
        problems.len() == 1
            && problems[0]
                .starts_with("warning: \"ca.crt\" holds 71 authorities, whose names take "),
        "{problems:?}"
    );
}

#[test]
fn loading_time_is_linear_in_cas_and_crls() {
    let pki = Pki::new();
    let all: Vec<_> = (0..320)
        .map(|n| {
            let authority = authority(&format!("CA {n}"), 2020, 2040);
            let list = crl(&authority, (2027, 1, 1)).pem().unwrap();
            (authority.pem(), list)
        })
        .collect();
    let best = |count: usize| {
        let (authorities, lists): (Vec<_>, Vec<_>) = all[..count].iter().cloned().unzip();
        pki.write("ca.crt", authorities.concat());
        pki.write("ca.crl", lists.concat());
        let times = (0..3).map(|_| {
            let start = leastconn::net::now();
            let read = reading(&text(), pki.dir.path());
            assert!(read.config.is_some());
            start.elapsed()
        });
        times.min().unwrap().as_secs_f64()
    };
    let ratio = best(320) / best(40);
    // With linear growth the ratio is 8, with quadratic growth 64.
    assert!(
        ratio < 24.0,
        "8 times as many CRLs took {ratio:.0} times as long"
    );
}

#[test]
fn crl_replaces_the_one_in_force() {
    let now = TODAY.parse().unwrap();
    let load = |before: &str, new: &str| -> Result<Vec<String>, Vec<String>> {
        let pki = Pki::new();
        let lists = |which: &str| match which {
            "old" => list_between(&pki.ca, 1, (5, 1), (12, 1)),
            "expired" => list_between(&pki.ca, 2, (5, 2), (5, 30)),
            _ => list_between(&pki.ca, 3, (5, 3), (12, 3)),
        };
        pki.write("ca.crl", lists(before));
        let mut problems = Problems::new("leastconn.toml", &text());
        problems.tolerate_expired();
        let unset = |_: &str| Err(VarError::NotPresent);
        let reading = read_text(problems, &text(), pki.dir.path(), &unset, now);
        let tls = reading.config.unwrap().listeners[0].tls.clone().unwrap();
        pki.write("ca.crl", lists(new));
        let lines = |problems: &Problems| problems.bare_lines().collect();
        match tls.load_again("main", now) {
            Ok((_, warnings)) => Ok(lines(&warnings)),
            Err(problems) => Err(lines(&problems)),
        }
    };
    let says = |lines: &[String], text: &str| lines.len() == 1 && lines[0].contains(text);
    let loaded = load("old", "new").unwrap();
    assert_eq!(loaded, [] as [String; 0]);
    let loaded = load("new", "old").unwrap();
    assert!(
        says(&loaded, "is older than the list that it replaces"),
        "{loaded:#?}"
    );
    let rejected = load("old", "expired").unwrap_err();
    assert!(says(&rejected, "expired at"), "{rejected:#?}");
    let loaded = load("expired", "expired").unwrap();
    assert!(says(&loaded, "expired at"), "{loaded:#?}");
}

#[test]
fn expired_crl_of_expired_ca_is_a_warning() {
    let pki = Pki::new();
    let old = authority("old CA", 2000, 2020);
    pki.write("ca.crt", pki.ca.pem() + &old.pem());
    let current = crl(&pki.ca, (2027, 1, 1)).pem().unwrap();
    let list_of = |by: &Authority| current.clone() + &crl(by, (2026, 1, 1)).pem().unwrap();
    pki.write("ca.crl", list_of(&old));
    let lines = pki.problems_of(&text());
    assert!(
        lines.iter().all(|line| line.starts_with("warning: ")),
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("the CRL of `CN=old CA`")),
        "{lines:#?}"
    );
    let other = authority("other CA", 2000, 2040);
    pki.write("ca.crt", pki.ca.pem() + &other.pem());
    pki.write("ca.crl", list_of(&other));
    let lines = pki.problems_of(&text());
    assert!(
        lines.iter().any(|line| line.starts_with("error: ")),
        "{lines:#?}"
    );
}
