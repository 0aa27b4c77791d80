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

fn peer(leaf: LeafBuilder<'_>) -> Peer {
    Peer {
        source: "10.0.0.7".parse().unwrap(),
        certificate: Some(read(leaf).unwrap().into()),
    }
}

#[test]
fn one_common_name_and_dns_names_in_their_order() {
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
fn two_common_names_are_ambiguous_however_they_are_written() {
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
fn a_common_name_is_plain_text() {
    for bytes in [
        &b"a\0b"[..],
        b"\0",
        b"a\n",
        b"\ra",
        b"a\tb",
        b"\x1b[31m",
        b"\x7f",
        "a\u{85}b".as_bytes(),
        b"\xff",
        b"a\xc3",
    ] {
        let read = read(leaf("").raw_cn_bytes(bytes));
        assert_eq!(read, Err(Ambiguous::UnreadableCommonName), "{bytes:?}");
    }
    let text = "Ann \"A.\" O'Neill, B\u{fc}ro \u{6f22}\u{5b57} \\ #1";
    assert_eq!(read(leaf(text)).unwrap().cn.as_deref(), Some(text));
}

#[test]
fn an_empty_name_is_none() {
    assert_eq!(read(leaf("")).unwrap().cn, None);
    assert_eq!(read(leaf("x").no_cn()).unwrap().cn, None);
}

#[test]
fn a_dns_name_is_visible_ascii() {
    for name in ["a\0.example", "a\n", "a b", "\u{7f}", "a\t"] {
        let read = read(leaf("a").dns("good.example").dns(name));
        assert_eq!(read, Err(Ambiguous::UnreadableDnsName), "{name:?}");
    }
}

#[test]
fn only_dns_names_are_dns_names() {
    let read = read(
        leaf("cn.example")
            .uri("spiffe://uri.example/a")
            .email("mail@mail.example")
            .ip([10, 0, 0, 1]),
    );
    assert_eq!(read.unwrap().dns, [""; 0]);
}

#[test]
fn a_wildcard_is_kept_as_the_text_it_is() {
    let read = read(leaf("*").dns("*.example")).unwrap();
    assert_eq!(read.cn.as_deref(), Some("*"));
    assert_eq!(read.dns, ["*.example"]);
}

#[test]
fn the_best_name_is_the_common_name_a_dns_name_a_uri_the_key_or_the_address() {
    let name = |leaf| peer(leaf).identity().as_str().to_owned();
    assert_eq!(name(leaf("a").dns("b").uri("urn:c")), "cn:a");
    assert_eq!(
        name(leaf("a").no_cn().uri("urn:c").dns("b").dns("d")),
        "dns:b"
    );
    assert_eq!(
        name(leaf("a").no_cn().uri("urn:c").uri("urn:d")),
        "uri:urn:c"
    );
    let cert = leaf("a").no_cn().ou("x").build();
    let read = Certificate::from_der(cert.der()).unwrap();
    assert_eq!(read.identity().as_str(), format!("spki:{}", read.spki));
    let nobody = Peer {
        source: "::1".parse().unwrap(),
        certificate: None,
    };
    assert_eq!(nobody.identity().as_str(), "source:::1");
}

/// Against rustls' own reading of the same certificate.
#[test]
fn the_key_is_the_sha_256_of_the_subject_public_key_info() {
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
fn a_serial_number_reads_as_openssl_prints_it() {
    let cert = leaf("a").build();
    let read = Certificate::from_der(cert.der()).unwrap();
    assert_eq!(read.serial.to_lowercase(), cert.serial_hex);
    assert_eq!(serial(&[0, 0x8f, 0x01]), "8F01");
    assert_eq!(serial(&[0x01, 0x00]), "0100");
    assert_eq!(serial(&[0]), "00");
    assert_eq!(serial(&[]), "");
}

#[test]
fn what_follows_the_certificate_is_not_passed_over() {
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
    /// The bytes come from outside: nothing in them may panic the process.
    #[test]
    fn no_bytes_panic_or_smuggle_controls(
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

/// Row by row, what is hostile in a certificate.
mod hostile;
