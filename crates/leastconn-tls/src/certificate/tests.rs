use leastconn_testkit::{Cert, TestCa, pki::LeafBuilder};
use proptest::prelude::*;
use std::sync::LazyLock;

use super::*;

static CA: LazyLock<TestCa> = LazyLock::new(|| TestCa::new("CA"));

fn leaf(cn: &str) -> LeafBuilder<'static> {
    CA.leaf(cn)
}

fn read(leaf: LeafBuilder<'_>) -> Result<Certificate, Ambiguous> {
    Certificate::from_der(leaf.build().der())
}

#[test]
fn names_are_read_in_order() {
    let read = read(
        leaf("client1.lb.com")
            .ou("one")
            .ou("two")
            .dns("B.example")
            .dns("a.example"),
    )
    .unwrap();
    assert_eq!(read.cn.as_deref(), Some("client1.lb.com"));
    assert_eq!(read.dns, ["b.example", "a.example"]);
}

#[test]
fn several_common_names_are_refused() {
    for leaf in [
        leaf("a").extra_cn("b"),
        leaf("a").joined_cn("b"),
        leaf("a").extra_cn("a"),
        leaf("a").ou("x").extra_cn(""),
        leaf("a").extra_cn("b").extra_cn("c"),
    ] {
        assert_eq!(read(leaf), Err(Ambiguous::SeveralCommonNames));
    }
}

#[test]
fn control_characters_in_common_names_are_refused() {
    for bytes in [
        &b"a\0b"[..],
        b"\0",
        b"a\n",
        b"\ra",
        b"a\tb",
        b"\x1b[31m",
        b"\x7f",
        "a\u{85}b".as_bytes(),
    ] {
        let read = read(leaf("").raw_cn_bytes(bytes));
        assert_eq!(read, Err(Ambiguous::UnreadableCommonName), "{bytes:?}");
    }
    let text = "Ann \"A.\" O'Neill, B\u{fc}ro \u{6f22}\u{5b57} \\ #1";
    assert_eq!(read(leaf(text)).unwrap().cn.as_deref(), Some(text));
}

#[test]
fn names_are_decoded_by_their_string_type() {
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_be_bytes).collect() };
    let utf32 = |text: &str| -> Vec<u8> {
        text.chars()
            .flat_map(|c| u32::from(c).to_be_bytes())
            .collect()
    };
    const UTF8: u32 = 12;
    const TELETEX: u32 = 20;
    const UNIVERSAL: u32 = 28;
    const BMP: u32 = 30;
    for (tag, bytes, expected) in [
        (UTF8, "B\u{fc}ro".as_bytes().to_vec(), Some("B\u{fc}ro")),
        (UTF8, b"\xff".to_vec(), None),
        (18, b"123".to_vec(), Some("123")),
        (19, b"a b".to_vec(), Some("a b")),
        (22, b"a@b".to_vec(), Some("a@b")),
        (26, b"a".to_vec(), Some("a")),
        (19, b"\xe4".to_vec(), None),
        (TELETEX, b"a.lb.com".to_vec(), Some("a.lb.com")),
        (TELETEX, b"B\xfcro".to_vec(), None),
        (BMP, utf16("B\u{fc}ro \u{6f22}"), Some("B\u{fc}ro \u{6f22}")),
        (BMP, b"a".to_vec(), None),
        (BMP, b"\xd8\x00".to_vec(), None),
        (UNIVERSAL, utf32("\u{1f511} a"), Some("\u{1f511} a")),
        (UNIVERSAL, b"\0\x11\0\0".to_vec(), None),
        (UNIVERSAL, b"\0\0a".to_vec(), None),
        (2, b"\x01".to_vec(), None),
    ] {
        let value = Any::from_tag_and_data(x509_parser::der_parser::asn1_rs::Tag(tag), &bytes);
        assert_eq!(
            distinguished_name::decode(&value).as_deref(),
            expected,
            "{tag} {bytes:?}"
        );
    }
}

#[test]
fn undecodable_names_are_reported() {
    use Ambiguous as A;
    for (leaf, error) in [
        (leaf("").raw_cn_bytes(b"\xff"), A::UndecodableCommonName),
        (
            leaf("a").ou("good").raw_ou_bytes(b"a\xc3"),
            A::UndecodableUnit,
        ),
        (leaf("a").issuer_cns(&[b"a", b"b"]), A::UnreadableIssuer),
    ] {
        let read = read(leaf.dns("a.example")).unwrap();
        assert_eq!(read.unreadable, [error]);
        assert_eq!(read.cn.is_none(), error == A::UndecodableCommonName);
        assert_eq!(read.ou, [""; 0]);
        assert_eq!(read.issuer_cn.is_none(), error == A::UnreadableIssuer);
        assert_eq!(read.dns, ["a.example"]);
    }
}

#[test]
fn constructed_tags_of_alternative_names_are_refused() {
    for tag in [0xa1, 0xa2, 0xa6, 0xa7, 0xa8] {
        let read = read(leaf("a").raw_name(tag, b"\x16\x01a"));
        assert_eq!(read.unwrap_err(), Ambiguous::ConstructedName, "{tag:x}");
    }
    assert!(read(leaf("a").raw_name(0x82, b"a.example")).is_ok());
}

#[test]
fn empty_common_name_is_absent() {
    assert_eq!(read(leaf("")).unwrap().cn, None);
    assert_eq!(read(leaf("x").no_cn()).unwrap().cn, None);
}

#[test]
fn dns_names_must_be_visible_ascii() {
    for name in ["a\0.example", "a\n", "a b", "\u{7f}", "a\t"] {
        let read = read(leaf("a").dns("good.example").dns(name));
        assert_eq!(read, Err(Ambiguous::UnreadableDnsName), "{name:?}");
    }
}

#[test]
fn other_names_are_not_dns_names() {
    let read = read(
        leaf("cn.example")
            .uri("spiffe://uri.example/a")
            .email("mail@mail.example")
            .ip([10, 0, 0, 1]),
    );
    assert_eq!(read.unwrap().dns, [""; 0]);
}

#[test]
fn wildcards_are_kept_literally() {
    let read = read(leaf("*").dns("*.example")).unwrap();
    assert_eq!(read.cn.as_deref(), Some("*"));
    assert_eq!(read.dns, ["*.example"]);
}

/// Compares the hash with that of the key as rustls parses it.
#[test]
fn spki_is_the_hash_of_the_public_key() {
    for cert in [leaf("a").build(), leaf("a").rsa().build()] {
        let read = Certificate::from_der(cert.der()).unwrap();
        let parsed = rustls::server::ParsedCertificate::try_from(cert.der()).unwrap();
        let spki = parsed.subject_public_key_info();
        let digest = digest(&SHA256, &spki);
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(read.spki, hex);
    }
}

#[test]
fn serial_numbers_are_formatted_as_by_openssl() {
    let cert = leaf("a").build();
    let read = Certificate::from_der(cert.der()).unwrap();
    assert_eq!(read.serial.to_lowercase(), cert.serial_hex);
    assert_eq!(serial(&[0, 0x8f, 0x01]), "8F01");
    assert_eq!(serial(&[0x01, 0x00]), "0100");
    assert_eq!(serial(&[0]), "00");
    assert_eq!(serial(&[]), "");
}

#[test]
fn trailing_bytes_are_refused() {
    let mut der = leaf("a").build().der().to_vec();
    der.push(0);
    assert_eq!(Certificate::from_der(&der), Err(Ambiguous::Unreadable));
    assert_eq!(Certificate::from_der(&[]), Err(Ambiguous::Unreadable));
}

static GOOD: LazyLock<Cert> = LazyLock::new(|| {
    leaf("a.example")
        .ou("c")
        .dns("b.example")
        .uri("spiffe://d/e")
        .build()
});

proptest! {
    /// Modified certificates cause no panic and yield no control characters.
    #[test]
    fn modified_certificates_are_read_safely(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut der = GOOD.der().to_vec();
        for (at, byte) in changes {
            let at = at.index(der.len());
            der[at] = byte;
        }
        if let Some(cut) = cut {
            der.truncate(cut.index(der.len()));
        }
        if let Ok(read) = Certificate::from_der(&der) {
            check(&read);
        }
    }
}

mod hostile;
