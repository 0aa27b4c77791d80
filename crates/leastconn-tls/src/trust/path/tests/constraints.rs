//! Name constraints of authorities and intermediates.

use super::*;

fn organization(name: &str, spelling: Spelling) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::OrganizationName, spelling.value(name));
    all
}

#[test]
fn directory_and_mail_constraints_are_checked() {
    let in_corp = |name: &str| {
        let mut leaf = client("c1");
        leaf.distinguished_name = organization(name, Spelling::Printable);
        leaf.distinguished_name.push(DnType::CommonName, "c1");
        leaf
    };
    let corp = || GeneralSubtree::DirectoryName(organization("Corp", Spelling::Same));
    let mail = |address: &str| {
        let mut leaf = client("c1");
        leaf.subject_alt_names = vec![SanType::Rfc822Name(address.try_into().unwrap())];
        leaf
    };
    let domain = |name: &str| GeneralSubtree::Rfc822Name(name.to_owned());
    for (root, leaf, forbidden) in [
        (limited(vec![corp()], vec![]), in_corp("Corp"), None),
        (limited(vec![corp()], vec![]), in_corp("CORP"), None),
        (
            limited(vec![corp()], vec![]),
            in_corp("Other"),
            Some("directory names"),
        ),
        (
            limited(vec![corp()], vec![]),
            client("c1"),
            Some("directory names"),
        ),
        (limited(vec![], vec![corp()]), in_corp("Other"), None),
        (
            limited(vec![], vec![corp()]),
            in_corp("Corp"),
            Some("directory names"),
        ),
        (
            limited(vec![domain("corp.example")], vec![]),
            mail("a@Corp.example"),
            None,
        ),
        (
            limited(vec![domain("corp.example")], vec![]),
            client("c1"),
            None,
        ),
        (
            limited(vec![domain("corp.example")], vec![]),
            mail("a@x.corp.example"),
            Some("e-mail addresses"),
        ),
        (
            limited(vec![domain(".corp.example")], vec![]),
            mail("a@x.corp.example"),
            None,
        ),
        (
            limited(vec![domain("a@corp.example")], vec![]),
            mail("a@corp.example"),
            None,
        ),
        (
            limited(vec![domain("a@corp.example")], vec![]),
            mail("b@corp.example"),
            Some("e-mail addresses"),
        ),
        (
            limited(vec![], vec![domain("corp.example")]),
            mail("a@corp.example"),
            Some("e-mail addresses"),
        ),
    ] {
        let chain = Chain::new(root, leaf, Spelling::Same);
        match forbidden {
            None => chain.verify().unwrap(),
            Some(kind) => {
                let expected = PathError::Constraint {
                    authority: "`CN=Field Enc CA`".to_owned(),
                    kind,
                    is_checked: true,
                };
                assert_eq!(chain.error(), expected);
            }
        }
        assert_eq!(chain.handshake(), forbidden.is_none());
    }
}

/// Constraints for URIs, which rcgen does not support.
fn uri_constraint(host: &str) -> CustomExtension {
    let base = der::encode(0x86, host.as_bytes());
    let permitted = der::encode(0xa0, &der::encode(0x30, &base));
    critical(&[2, 5, 29, 30], &der::encode(0x30, &permitted))
}

#[test]
fn uri_constraints_are_checked_at_every_level() {
    for (host, uri, is_allowed) in [
        ("td.example", "spiffe://td.example/web", true),
        ("td.example", "https://u@TD.example:8443/x?y#z", true),
        ("td.example", "spiffe://x.td.example/web", false),
        (".td.example", "https://x.td.example", true),
        (".td.example", "https://td.example", false),
        ("td.example", "urn:x", false),
        ("td.example", "https://10.0.0.1/", false),
        ("td.example", "https://[::1]/", false),
    ] {
        let mut leaf = client("c1");
        leaf.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let mut top = root();
        top.custom_extensions = vec![uri_constraint(host)];
        let chain = Chain::new(top, leaf.clone(), Spelling::Same);
        assert_eq!(chain.verify().is_ok(), is_allowed, "{host} {uri}");
        assert_eq!(chain.handshake(), is_allowed, "{host} {uri}");
        // Repeat with the constraint in an intermediate.
        let mut chain = Chain::simple(client("unused"));
        let root_key = KeyPair::generate().unwrap();
        chain.root = root().self_signed(&root_key).unwrap().der().clone();
        let key = KeyPair::generate().unwrap();
        let mut middle = authority("Middle CA", Spelling::Same);
        middle.custom_extensions = vec![uri_constraint(host)];
        let der = middle
            .signed_by(&key, &Issuer::new(root(), root_key))
            .unwrap();
        let signed = leaf
            .signed_by(&chain.key, &Issuer::new(middle, key))
            .unwrap();
        chain.leaf = signed.der().clone();
        chain.above = vec![der.der().clone()];
        assert_eq!(chain.verify().is_ok(), is_allowed, "{host} {uri}");
        assert_eq!(chain.handshake(), is_allowed, "{host} {uri}");
    }
}

#[test]
fn malformed_alternative_names_violate_constraints() {
    let corp = || organization("Corp", Spelling::Same);
    let root = limited(vec![GeneralSubtree::DirectoryName(corp())], vec![]);
    // A DNS name, then a URI of 32 bytes that is cut after 1 byte.
    let names = vec![0x30, 6, 0x82, 1, b'a', 0x86, 32, b'u'];
    let mut leaf = client("c1");
    leaf.distinguished_name = corp();
    leaf.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
    let expected = PathError::Constraint {
        authority: "`CN=Field Enc CA`".to_owned(),
        kind: "directory names",
        is_checked: true,
    };
    let chain = Chain::new(root, leaf, Spelling::Same);
    assert_eq!(chain.error(), expected);
}
