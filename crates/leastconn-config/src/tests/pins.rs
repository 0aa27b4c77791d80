//! Pinned keys, verification of servers by URI, and name constraints of CAs.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::{
    PLAIN,
    pki::{Pki, by_name},
    reading,
};

const PIN: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn listener(tls: &str) -> String {
    by_name(PLAIN.replace(
        "upstream = \"web\"\n",
        &format!(
            "upstream = \"web\"\ntls = {{ cert = \"server.crt\", key = \"server.key\", {tls} }}\n"
        ),
    ))
}

fn upstream(tls: &str) -> String {
    let servers = "servers = [\"10.0.0.1:80\"";
    PLAIN.replace(servers, &format!("tls = {{ {tls} }}\n{servers}"))
}

#[test]
fn pins_and_uris_are_checked() {
    let pki = Pki::new();
    for (text, expected) in [
        (listener(&format!("client_pins = \"{PIN}\"")), None),
        (listener(&format!("client_pins = [\"{PIN}\"]")), None),
        (
            listener("client_pins = [\"abc\"]"),
            Some("error: `client_pins`: "),
        ),
        (
            listener("client_pins = []"),
            Some("error: `client_pins` is an empty list"),
        ),
        (
            listener(&format!("client_pins = \"{PIN}\", client_ca = \"ca.crt\"")),
            Some("warning: pinned clients can choose the names"),
        ),
        (
            listener(&format!("client_pins = \"{PIN}\", client_auth = \"none\"")),
            Some("warning: `client_pins` has no effect"),
        ),
        (upstream(&format!("pin = \"{PIN}\"")), None),
        (
            upstream(&format!("ca = \"ca.crt\", pin = [\"{PIN}\"]")),
            None,
        ),
        (
            upstream("ca = \"ca.crt\", uri = \"spiffe://lb.com/web\""),
            None,
        ),
        (
            upstream("uri = \"spiffe://lb.com/web\""),
            Some("error: `upstream.tls` needs `ca`"),
        ),
        (
            upstream(&format!("pin = \"{PIN}\", uri = \"spiffe://lb.com/web\"")),
            Some("error: `upstream.tls` needs `ca` for `uri`"),
        ),
        (upstream("pin = \"x\""), Some("error: `pin`: ")),
        (
            upstream("ca = \"ca.crt\", uri = \"spiffe://lb.com/**/x\""),
            Some("error: `uri`: "),
        ),
    ] {
        let problems = pki.problems_of(&text);
        match expected {
            None => assert_eq!(problems, Vec::<String>::new(), "{text}"),
            Some(expected) => assert!(
                problems.len() == 1 && problems[0].starts_with(expected),
                "{problems:#?}\n  expected: {expected}"
            ),
        }
    }
}

#[test]
fn pins_and_uris_survive_a_reload() {
    let pki = Pki::new();
    let text = listener(&format!("client_pins = [\"{PIN}\"]"));
    let config = reading(&text, pki.dir.path()).config.unwrap();
    let tls = config.listeners[0].tls.as_ref().unwrap();
    let now = super::TODAY.parse().unwrap();
    assert_eq!(tls.load_again("main", now).unwrap().0, *tls);
    let text = upstream(&format!(
        "ca = \"ca.crt\", uri = [\"spiffe://a/*\"], pin = [\"{PIN}\"], server_name = \"a.b\""
    ));
    let config = reading(&text, pki.dir.path()).config.unwrap();
    let upstream = &config.upstreams[0];
    let tls = upstream.tls.as_ref().unwrap();
    let again = tls.load_again("web", &upstream.servers, now).unwrap().0;
    assert_eq!(again, *tls);
}

#[test]
fn ca_whose_clients_are_refused_is_a_warning() {
    let pki = Pki::new();
    let write = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "the CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        change(&mut params);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        pki.write("limited.crt", ca.pem());
    };
    let text = listener("client_ca = \"limited.crt\"");
    // Name constraints of type otherName.
    write(&|params| {
        let tree = b"\x30\x10\xa0\x0e\x30\x0c\xa0\x0a\x06\x03\x2a\x03\x04\xa0\x03\x0c\x01x";
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], tree.to_vec());
        params.custom_extensions.push(extension);
    });
    let problems = pki.problems_of(&text);
    assert!(
        problems.len() == 1
            && problems[0].contains("`CN=the CA` has name constraints for other names"),
        "{problems:#?}"
    );
    write(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let problems = pki.problems_of(&text);
    assert!(
        problems.len() == 1
            && problems[0].contains("extended key usage of `CN=the CA` lacks clientAuth"),
        "{problems:#?}"
    );
}
