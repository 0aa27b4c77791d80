//! Which revocation lists are of use, and what is said of the others.

use leastconn_testkit::pki::{list_of_version_1, list_without_next_update};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber, date_time_ymd};

use super::{
    PLAIN, TODAY, reading,
    tls::{Authority, Pki, crl},
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
            list_of_version_1(&good, pki.ca.key()),
            "error: \"ca.crl\": the list of `CN=the CA` is of version 1, which is not supported; it has none of the \
             extensions that a list must have; make it anew, with `crlnumber` and \
             `crl_extensions` in the configuration of `openssl ca`",
        ),
        (
            list_without_next_update(&good, pki.ca.key()),
            "error: \"ca.crl\": the list of `CN=the CA` does not say until when it is good; make it anew, with \
             `nextUpdate`: `openssl ca -gencrl -crldays 7`",
        ),
        (
            list(&pki.ca, SerialNumber::from(vec![1; 25]), 2025),
            "error: \"ca.crl\": the list of `CN=the CA` cannot be used: invalid crl number",
        ),
        (
            list(&pki.ca, SerialNumber::from(1), 2027),
            "warning: \"ca.crl\": the list of `CN=the CA` is from 2027-01-01T00:00:00Z, which is yet to come; it is in \
             force all the same: look at its issuer's clock, and at this one",
        ),
        (
            good[..good.len() - 1].to_vec(),
            "error: \"ca.crl\": there is no revocation list in it: this looks like DER that is cut off \
             or damaged; was it copied whole, and not as text?",
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
    pki.write("ca.crl", list_of_version_1(&good, pki.ca.key()));
    let problems = tls.load_again("main", TODAY.parse().unwrap()).unwrap_err();
    let lines: Vec<_> = problems.lines().collect();
    let path = pki.dir.path().join("ca.crl").display().to_string();
    let said = format!(
        "{path} (`tls` of listener `main`): error: \"ca.crl\": the list of `CN=the CA` is of version 1"
    );
    assert!(
        lines.len() == 1 && lines[0].starts_with(&said),
        "{lines:#?}"
    );
}
