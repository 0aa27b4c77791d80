//! Which revocation lists are of use, and what is said of the others.

use leastconn_testkit::pki::{crl_version_1, crl_without_next_update};
use rcgen::{
    CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    SerialNumber, date_time_ymd,
};

use std::env::VarError;

use super::super::{Problems, read_text};
use super::{
    PLAIN, TODAY, reading,
    tls::{ALL, Authority, Pki, authority, crl},
};

/// In lines of their own, to tell the places apart.
fn text() -> String {
    let tls = "\n[listener.tls]\ncert = \"server.crt\"\nkey = \"server.key\"\n\
               client_ca = \"ca.crt\"\ncrl = \"ca.crl\"\n";
    PLAIN.replace(
        "upstream = \"web\"\n",
        &format!("upstream = \"web\"\n{tls}"),
    )
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
fn what_is_wrong_with_a_list_is_said_at_the_key_that_names_it() {
    let pki = Pki::new();
    let good = crl(&pki.ca, (2027, 1, 1)).der().to_vec();
    for (der, said) in [
        (
            crl_version_1(&good, pki.ca.key()),
            "error: \"ca.crl\": the list of `CN=the CA` has version 1, which is not supported; it lacks the \
             required extensions; issue it again with `crlnumber` and `crl_extensions` in the \
             configuration of `openssl ca`",
        ),
        (
            crl_without_next_update(&good, pki.ca.key()),
            "error: \"ca.crl\": the list of `CN=the CA` has no `nextUpdate`, the time of its expiry; issue it again with \
             `nextUpdate`: `openssl ca -gencrl -crldays 7`",
        ),
        (
            list(&pki.ca, SerialNumber::from(vec![1; 25]), 2025),
            "error: \"ca.crl\": the list of `CN=the CA` cannot be used: invalid crl number",
        ),
        (
            list(&pki.ca, SerialNumber::from(1), 2027),
            "warning: \"ca.crl\": the list of `CN=the CA` was issued at 2027-01-01T00:00:00Z, which is in the future; it is \
             used nevertheless: check the clocks of the issuer and of this machine",
        ),
        (
            good[..good.len() - 1].to_vec(),
            "error: \"ca.crl\": there is no revocation list in it: this looks like truncated or \
             damaged DER; was the file copied completely, and in binary mode?",
        ),
    ] {
        pki.write("ca.crl", der);
        assert_eq!(pki.says_of(&text()), [said]);
        let told = reading(&text(), pki.dir.path()).problems;
        let line = told.lines().next().unwrap();
        assert!(line.contains(&format!(":{}:7: ", place())), "{line}");
    }
}

/// The text that is loaded again is nowhere to be read, and so no place.
#[test]
fn what_is_wrong_with_a_list_that_was_changed_is_said_with_its_path() {
    let pki = Pki::new();
    let config = reading(&text(), pki.dir.path()).config.unwrap();
    let tls = config.listeners[0].tls.as_ref().unwrap();
    let good = crl(&pki.ca, (2027, 1, 1)).der().to_vec();
    pki.write("ca.crl", crl_version_1(&good, pki.ca.key()));
    let problems = tls.load_again("main", TODAY.parse().unwrap()).unwrap_err();
    let lines: Vec<_> = problems.lines().collect();
    let path = pki.dir.path().join("ca.crl").display().to_string();
    let said = format!(
        "{path} (`tls` of listener `main`): error: \"ca.crl\": the list of `CN=the CA` has version 1"
    );
    assert!(
        lines.len() == 1 && lines[0].starts_with(&said),
        "{lines:#?}"
    );
}

/// A list of 2026, between these days of the year's months.
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
fn older_list_is_ignored_with_a_warning() {
    let pki = Pki::new();
    // Expired, which does not matter any more; and in a file of its own.
    pki.write("old.crl", list_between(&pki.ca, 1, (5, 1), (5, 30)));
    pki.write("new.crl", list_between(&pki.ca, 2, (6, 1), (9, 1)));
    for order in ["\"old.crl\", \"new.crl\"", "\"new.crl\", \"old.crl\""] {
        let tls = ALL.replace("crl = \"ca.crl\"", &format!("crl = [{order}]"));
        assert_eq!(
            pki.says(&tls),
            [
                "warning: \"old.crl\": the list of `CN=the CA` is older than another one and is ignored: \
                 number 1 of 2026-05-01T00:00:00Z; the list in force is number 2 of 2026-06-01T00:00:00Z \
                 in \"new.crl\""
            ]
        );
    }
}

#[test]
fn expired_list_among_several_is_named() {
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
    let said = pki.says(ALL);
    assert!(
        said.len() == 1
            && said[0].starts_with(
                "error: \"ca.crl\": the list of `CN=one` (list 2 of 3) expired at \
                 2026-05-30T00:00:00Z"
            ),
        "{said:?}"
    );
}

#[test]
fn list_that_expires_soon_is_warned_of() {
    let pki = Pki::new();
    // It is noon of June 15.
    for (from, to, warned) in [
        ((6, 10), (7, 10), false),
        ((5, 21), (6, 20), true),
        ((6, 15), (6, 16), false),
        ((6, 1), (6, 16), true),
    ] {
        pki.write("ca.crl", list_between(&pki.ca, 1, from, to));
        let said = pki.says(ALL);
        let is_warned = said.iter().any(|line| {
            line.starts_with("warning: \"ca.crl\": the list of `CN=the CA` expires at 2026-")
        });
        assert_eq!(
            (is_warned, said.len()),
            (warned, usize::from(warned)),
            "{said:?}"
        );
    }
}

#[test]
fn why_a_list_is_not_signed_is_said() {
    let pki = Pki::new();
    let good = list_between(&pki.ca, 1, (6, 1), (9, 1));
    // ecdsa-with-SHA256 becomes ecdsa-with-SHA224, in both places.
    let mut der = crl(&pki.ca, (2027, 1, 1)).der().to_vec();
    let oid = b"\x2a\x86\x48\xce\x3d\x04\x03\x02";
    while let Some(at) = der.windows(oid.len()).position(|window| window == oid) {
        der[at + oid.len() - 1] = 1;
    }
    pki.write("ca.crl", der);
    let said = pki.says(ALL);
    assert!(
        said[0].starts_with(
            "error: \"ca.crl\": the list of `CN=the CA` is signed with SHA-224, which is not \
             supported; sign it with SHA-256 or better"
        ),
        "{said:?}"
    );

    let below = authority("below", 2020, 2040);
    pki.write("ca.crl", good + &list_between(&below, 1, (6, 1), (9, 1)));
    let said = pki.says(ALL);
    assert!(
        said[0].starts_with(
            "error: \"ca.crl\": the list of `CN=below` (list 2 of 2) is not signed by any \
             authority of `client_ca`; `CN=below` is not in `client_ca`; if `CN=below` is an \
             intermediate that issues certificates, add its certificate to `client_ca`"
        ),
        "{said:?}"
    );
}

#[test]
fn authority_without_crl_sign_signs_no_list() {
    let pki = Pki::new();
    let mut params = super::tls::server_params();
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
    // rcgen refuses to sign with it as it is.
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    let issuer = Issuer::new(params, key);
    pki.write("ca.crt", pki.ca.pem() + &certificate.pem());
    let lists =
        list_between(&pki.ca, 1, (6, 1), (9, 1)) + &list_between(&issuer, 1, (6, 1), (9, 1));
    pki.write("ca.crl", lists);
    let said = pki.says(ALL);
    assert!(
        said[0].contains("is signed by an authority whose key usage lacks cRLSign; issue the"),
        "{said:?}"
    );
}

#[test]
fn expired_list_is_tolerated_by_who_only_looks() {
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
fn too_many_authorities_are_warned_of() {
    let pki = Pki::new();
    let long = |number: usize| authority(&format!("{number}{}", "x".repeat(500)), 2020, 2040);
    let many: String = (0..70).map(|number| long(number).pem()).collect();
    pki.write("ca.crt", pki.ca.pem() + &many);
    let said = pki.says(&ALL.replace(", crl = \"ca.crl\"", ""));
    assert!(
        said.len() == 1
            && said[0].starts_with("warning: \"ca.crt\" holds 71 authorities, whose names take "),
        "{said:?}"
    );
}

#[test]
fn loading_time_grows_linearly_with_authorities_and_lists() {
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
    // Linear is 8, the square 64.
    assert!(ratio < 24.0, "{ratio:.0} times as long for 8 times as many");
}

#[test]
fn list_replaces_one_in_force() {
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
fn expired_list_of_an_expired_authority_is_a_warning() {
    let pki = Pki::new();
    let old = authority("old CA", 2000, 2020);
    pki.write("ca.crt", pki.ca.pem() + &old.pem());
    let current = crl(&pki.ca, (2027, 1, 1)).pem().unwrap();
    let list_of = |by: &Authority| current.clone() + &crl(by, (2026, 1, 1)).pem().unwrap();
    pki.write("ca.crl", list_of(&old));
    let lines = pki.says_of(&text());
    assert!(
        lines.iter().all(|line| line.starts_with("warning: ")),
        "{lines:#?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("the list of `CN=old CA`")),
        "{lines:#?}"
    );
    let other = authority("other CA", 2000, 2040);
    pki.write("ca.crt", pki.ca.pem() + &other.pem());
    pki.write("ca.crl", list_of(&other));
    let lines = pki.says_of(&text());
    assert!(
        lines.iter().any(|line| line.starts_with("error: ")),
        "{lines:#?}"
    );
}
