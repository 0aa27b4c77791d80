//! Certificates that an attacker could present, in the order of `docs/threats.md`.

use super::*;

/// NUL and control characters in names: threat 9 in `docs/threats.md`.
#[test]
fn control_characters_in_names_are_refused() {
    for bytes in [&b"a\0.evil"[..], b"\0", b"a\n", b"a\x1b[2J", b"a\x7f"] {
        let cases = [
            leaf("").raw_cn_bytes(bytes),
            leaf("a").raw_ou_bytes(bytes),
            leaf("a").ou("good").raw_ou_bytes(bytes).ou("good"),
            leaf("a").raw_name(0x82, bytes),
            leaf("a").raw_name(0x86, &[b"urn:", bytes].concat()),
            leaf("a").raw_name(0x86, &[b"spiffe://td/", bytes].concat()),
            leaf("a").raw_name(0x82, b"good").raw_name(0x82, bytes),
        ];
        for case in cases {
            let refused = read(case.clone()).expect_err("accepted");
            assert!(!refused.to_string().is_empty());
        }
    }
    let refused = |leaf| read(leaf).unwrap_err();
    assert_eq!(
        refused(leaf("a").raw_ou_bytes(b"\0")),
        Ambiguous::UnreadableUnit
    );
    assert_eq!(
        refused(leaf("a").raw_name(0x82, b"a\0")),
        Ambiguous::UnreadableDnsName
    );
    assert_eq!(
        refused(leaf("a").raw_name(0x86, b"u:\0")),
        Ambiguous::UnreadableUri
    );
    for tag in [0x82, 0x86] {
        let unread = refused(leaf("a").raw_name(tag, b"\xff\xfe"));
        assert_eq!(unread, Ambiguous::UnreadableAlternativeNames);
    }
}

/// A URI in a DNS or e-mail name: threat 10 in `docs/threats.md`.
#[test]
fn uri_inside_dns_name_is_not_a_uri() {
    const ID: &str = "spiffe://td/web";
    let read = read(leaf("a").dns(ID).email(ID).email("web@td")).unwrap();
    assert_eq!(read.uri, [""; 0]);
    assert_eq!(read.dns, [ID]);
    let with_uri = super::read(leaf("a").uri(ID).email("a.example")).unwrap();
    assert_eq!(with_uri.uri, [ID]);
    assert_eq!(with_uri.dns, [""; 0]);
}

/// Several common names, or a SPIFFE ID and another URI: threat 11 in `docs/threats.md`.
#[test]
fn ambiguous_names_are_refused() {
    for case in [
        leaf("a").extra_cn("b"),
        leaf("a").joined_cn("b"),
        leaf("a").ou("x").joined_cn("b"),
    ] {
        assert_eq!(read(case), Err(Ambiguous::SeveralCommonNames));
    }
    let id = || leaf("a").uri("spiffe://td/web");
    for case in [
        id().uri("spiffe://td/db"),
        id().uri("spiffe://td/web"),
        id().uri("urn:x"),
        leaf("a").uri("urn:x").uri("spiffe://td/web"),
        leaf("a").uri("urn:x").uri("SPIFFE://td/web"),
        id().uri("SPIFFE:"),
    ] {
        assert_eq!(read(case), Err(Ambiguous::SeveralUris));
    }
}

#[test]
fn duplicate_extension_is_refused() {
    let twice = leaf("a").dns("good").raw_name(0x82, b"evil");
    assert_eq!(read(twice), Err(Ambiguous::UnreadableAlternativeNames));
}

#[test]
fn several_units_and_uris_are_accepted() {
    let read = read(
        leaf("a")
            .joined_ou("joined")
            .ou("two")
            .ou("two")
            .uri("https://x/1")
            .uri("urn:2"),
    );
    let read = read.unwrap();
    assert_eq!(read.cn.as_deref(), Some("a"));
    assert_eq!(read.ou, ["joined", "two", "two"]);
    assert_eq!(read.uri, ["https://x/1", "urn:2"]);
    assert_eq!(read.issuer_cn.as_deref(), Some("CA"));
    let no_issuer = super::read(leaf("a").issuer_cns(&[])).unwrap();
    assert_eq!(no_issuer.issuer_cn, None);
}

/// Modified SPIFFE IDs: threat 12 in `docs/threats.md`.
#[test]
fn invalid_spiffe_ids_are_refused() {
    for uri in [
        "SPIFFE://td/web",
        "spiffe:td/web",
        "spiffe://TD/web",
        "spiffe://td:443/web",
        "spiffe://user@td/web",
        "spiffe://td/web?x",
        "spiffe://td/web#x",
        "spiffe://td/%77eb",
        "spiffe://td//web",
        "spiffe://td/../web",
        "spiffe://td/web/",
        "spiffe://td/*",
        "spiffe:///web",
    ] {
        let refused = read(leaf("a").uri(uri)).unwrap_err();
        assert!(
            matches!(refused, Ambiguous::InvalidSpiffeId(_)),
            "{uri}: {refused}"
        );
    }
    let long = format!("spiffe://td/{}", "a".repeat(2048));
    let refused = read(leaf("a").uri(&long));
    assert_eq!(
        refused,
        Err(Ambiguous::InvalidSpiffeId(SpiffeError::TooLong))
    );
}

#[test]
fn too_many_names_are_refused() {
    let many = |count: usize| (0..count).fold(leaf("a"), |leaf, n| leaf.dns(&format!("{n}.x")));
    assert_eq!(read(many(MAX_NAMES)).unwrap().dns.len(), MAX_NAMES);
    assert_eq!(read(many(MAX_NAMES + 1)), Err(Ambiguous::TooManyNames));
    // Names of all kinds count towards the limit: each costs the same to read.
    let others = many(MAX_NAMES - 1).uri("urn:x").email("a@b");
    assert_eq!(read(others), Err(Ambiguous::TooManyNames));
    let units = |count: usize| (0..count).fold(leaf("a"), |leaf, n| leaf.ou(&format!("{n}")));
    assert_eq!(read(units(MAX_NAMES)).unwrap().ou.len(), MAX_NAMES);
    assert_eq!(read(units(MAX_NAMES + 1)), Err(Ambiguous::TooManyNames));
    let large = (0..8000).fold(leaf("a"), |leaf, _| leaf.raw_name(0x82, b"a"));
    assert_eq!(read(large), Err(Ambiguous::TooManyNames));
}
