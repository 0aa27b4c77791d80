use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{invariants::check_invariants, tlvs as tlvs_of, *};

fn ends(source: &str, destination: &str) -> Endpoints {
    Endpoints::new(source.parse().unwrap(), destination.parse().unwrap())
}

/// Parses `bytes`, which must consist of exactly one header.
fn header(bytes: &[u8]) -> Result<Header, HeaderError> {
    match parse(bytes)? {
        Some((length, header)) => {
            assert_eq!(length, bytes.len());
            Ok(header)
        }
        None => panic!("{:?} is incomplete", bytes.escape_ascii().to_string()),
    }
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

const V4: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0x01, 0xbb];

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&V4[..], tlvs].concat())
}

#[test]
fn version_1_is_decoded() {
    assert_eq!(
        header(b"PROXY TCP4 10.0.0.1 10.0.0.2 4660 443\r\n"),
        Ok(Header::Proxied(ends("10.0.0.1:4660", "10.0.0.2:443")))
    );
    assert_eq!(
        header(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n"),
        Ok(Header::Proxied(ends("[2001:db8::1]:0", "[::1]:65535")))
    );
    for local in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ignored  \x01 text\r\n"] {
        assert_eq!(header(local.as_bytes()), Ok(Header::Local));
    }
}

#[test]
fn version_1_line_length_is_limited() {
    let longest = |more: usize| {
        let address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        format!(
            "PROXY UNKNOWN {address} {address} 65535 65535{}\r\n",
            "x".repeat(more)
        )
    };
    assert_eq!(longest(0).len(), MAX_V1);
    assert_eq!(header(longest(0).as_bytes()), Ok(Header::Local));
    let long = longest(1);
    let error = HeaderError::Malformed("no line end within 107 bytes");
    assert_eq!(parse(long.as_bytes()), Err(error.clone()));
    // The line is rejected as soon as it reaches the limit.
    assert_eq!(parse(&long.as_bytes()[..MAX_V1]), Err(error));
    assert_eq!(parse(&long.as_bytes()[..MAX_V1 - 1]), Ok(None));
}

#[test]
fn ambiguous_version_1_line_is_rejected() {
    for line in [
        "PROXY  TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP4 10.0.0.1  10.0.0.2 1 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 \r\n",
        "PROXY TCP4 010.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP4 10.1 10.0.0.2 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
        "PROXY TCP5 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY UNKNOWNTCP4\r\n",
        "PROXY tcp4 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWN\n",
    ] {
        let error = parse(line.as_bytes()).unwrap_err();
        assert!(
            matches!(error, HeaderError::Malformed(_)),
            "{line:?}: {error}"
        );
    }
    let error = parse(b"PROXY UNKNOWN \xff\r\n").unwrap_err();
    assert_eq!(error, HeaderError::Malformed("not UTF-8"));
    // A version 1 header must start with `PROXY` and a space.
    assert!(matches!(parse(b"PROXY\t"), Err(HeaderError::Missing(_))));
}

#[test]
fn version_2_is_decoded() {
    assert_eq!(
        header(&with_tlvs(&[])),
        Ok(Header::Proxied(ends("10.0.0.1:4660", "10.0.0.2:443")))
    );
    let mut v6 = [0; 36];
    v6[15] = 1;
    v6[31] = 2;
    v6[33] = 9;
    let read = Ok(Header::Proxied(ends("[::1]:9", "[::2]:0")));
    assert_eq!(header(&v2(0x21, 0x21, &v6)), read);
    for local in [
        v2(0x20, 0x00, &[]),
        // Everything after the fixed part of a LOCAL header is ignored.
        v2(0x20, 0x11, &V4),
        v2(0x20, 0x31, &[1, 2, 3]),
        v2(0x20, 0xff, &[0xff; 100]),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x00, &[4, 0, 1, 0]),
    ] {
        assert_eq!(header(&local), Ok(Header::Local));
    }
}

#[test]
fn wrong_command_is_rejected_as_soon_as_it_arrives() {
    assert_eq!(parse(&SIGNATURE).unwrap(), None);
    for command in [0x11, 0x22] {
        let start = [&SIGNATURE[..], &[command]].concat();
        assert!(matches!(parse(&start), Err(HeaderError::Malformed(_))));
    }
}

#[test]
fn malformed_or_unsupported_version_2_is_rejected() {
    let malformed = |what: &'static str| HeaderError::Malformed(what);
    for (bytes, error) in [
        (v2(0x11, 0x11, &V4), malformed("version is not 2")),
        (v2(0x31, 0x11, &V4), malformed("version is not 2")),
        (
            v2(0x22, 0x11, &V4),
            malformed("command is not LOCAL or PROXY"),
        ),
        (v2(0x21, 0x12, &V4), HeaderError::OtherProtocol("UDP")),
        (v2(0x21, 0x22, &[0; 36]), HeaderError::OtherProtocol("UDP")),
        (
            v2(0x21, 0x31, &[0; 216]),
            HeaderError::OtherProtocol("a UNIX socket"),
        ),
        (v2(0x21, 0x10, &V4), malformed("unknown address family")),
        (v2(0x21, 0x41, &V4), malformed("unknown address family")),
        (
            v2(0x21, 0x11, &V4[..11]),
            malformed("too short for its addresses"),
        ),
        (
            v2(0x21, 0x21, &[0; 35]),
            malformed("too short for its addresses"),
        ),
        (with_tlvs(&[4]), malformed("truncated TLV")),
        (with_tlvs(&[4, 0]), malformed("truncated TLV")),
        (
            with_tlvs(&[4, 0, 2, 0]),
            malformed("TLV exceeds the header"),
        ),
        (v2(0x21, 0x00, &[4]), malformed("truncated TLV")),
        (v2(0x20, 0x00, &[0; 4133]), HeaderError::TooLong(4133)),
    ] {
        assert_eq!(parse(&bytes), Err(error), "{bytes:x?}");
    }
    // The length field alone causes the rejection, before the 64 KiB have arrived.
    let long = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
    assert_eq!(parse(&long), Err(HeaderError::TooLong(65535)));
    assert!(parse(&v2(0x20, 0x00, &[0; 4132])).unwrap().is_some());
}

#[test]
fn tlvs_are_listed() {
    let header = with_tlvs(&[4, 0, 1, 9, 2, 0, 0]);
    let listed: Vec<_> = tlvs_of(&header).map(Result::unwrap).collect();
    let tlv = |kind, value| Tlv { kind, value };
    assert_eq!(listed, [tlv(4, &[9]), tlv(2, &[])]);
    let cut = with_tlvs(&[4, 0, 1, 9, 2, 0]);
    let last = tlvs_of(&cut).last().unwrap();
    assert_eq!(last, Err(HeaderError::Malformed("truncated TLV")));
    for without in [
        &b"PROXY UNKNOWN\r\n"[..],
        &Version::V2.encode_local(),
        &SIGNATURE,
        b"",
    ] {
        assert_eq!(tlvs_of(without).count(), 0);
    }
}

#[test]
fn checksum_is_verified() {
    let mut crc = tlv::Crc::new();
    crc.add(b"123456789");
    // The published check value for CRC-32C.
    assert_eq!(crc.finish(), 0xe306_9283);

    let seal = |tlvs: &[u8], at: usize| {
        let mut bytes = with_tlvs(tlvs);
        let mut crc = tlv::Crc::new();
        crc.add(&bytes);
        let at = FIXED + V4.len() + at;
        bytes[at..at + 4].copy_from_slice(&crc.finish().to_be_bytes());
        bytes
    };
    let sealed = seal(&[4, 0, 1, 9, 3, 0, 4, 0, 0, 0, 0, 4, 0, 0], 7);
    assert!(header(&sealed).is_ok());
    // Every flipped bit is detected, either by a length check or by the checksum.
    for at in FIXED..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            let changed = parse(&changed);
            // The exception is the type of the checksum TLV. With a flipped bit there, the TLV has
            // an unknown type and is ignored.
            if changed.is_ok() {
                assert_eq!(at, FIXED + V4.len() + 4, "bit {bit} of byte {at}");
            }
        }
    }
    for twice in [
        with_tlvs(&[3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0]),
        with_tlvs(&[3, 0, 3, 0, 0, 0]),
    ] {
        assert_eq!(
            parse(&twice),
            Err(HeaderError::Malformed(
                "more than one checksum, or not 4 bytes"
            ))
        );
    }
}

#[test]
fn error_names_the_received_protocol() {
    let message = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
    for (bytes, what) in [
        (&b"\x16"[..], "a TLS ClientHello"),
        (b"\x16\x03\x01\x02\x00\x01", "a TLS ClientHello"),
        (b"GET / HTTP/1.1\r\n", "an HTTP request"),
        (b"PRI * HTTP/2.0\r\n", "an HTTP request"),
        (b"SSH-2.0-x\r\n", "\"SSH-2.0-x\\r\\n\""),
        (b"\0\"\xff", "\"\\x00\\\"\\xff\""),
    ] {
        let expected = format!("expected a PROXY header, got {what}");
        assert_eq!(message(bytes), expected);
    }
    assert_eq!(
        Unexpected::Bytes(b"abcdefghijklmnop".to_vec()),
        match parse(b"abcdefghijklmnopqrstuvw").unwrap_err() {
            HeaderError::Missing(instead) => instead,
            other => panic!("{other}"),
        }
    );
}

#[test]
fn ipv4_mapped_address_is_ipv4() {
    let read = header(b"PROXY TCP6 ::ffff:10.0.0.1 2001:db8::2 1 2\r\n").unwrap();
    let mixed = ends("10.0.0.1:1", "[2001:db8::2]:2");
    assert_eq!(read, Header::Proxied(mixed));
    assert_eq!(
        Version::V1.encode_proxied(mixed, None),
        b"PROXY TCP6 ::ffff:10.0.0.1 2001:db8::2 1 2\r\n"
    );
}

#[test]
fn local_header_is_decoded_as_local() {
    for version in [Version::V1, Version::V2, Version::V2Tls, Version::V2TlsFull] {
        assert_eq!(header(&version.encode_local()), Ok(Header::Local));
    }
}

const TLS: ClientTls<'_> = ClientTls {
    version: "1.3",
    cipher: "TLS_AES_128_GCM_SHA256",
    resumed: false,
    certificate: true,
    cn: Some("c"),
    server_name: Some("s"),
    alpn: None,
    identity: None,
    der: Some(b"DER"),
};

fn tlvs(tls: &ClientTls<'_>) -> Vec<u8> {
    let ends = ends("10.0.0.1:4660", "10.0.0.2:443");
    let bytes = Version::V2Tls.encode_proxied(ends, Some(tls));
    assert_eq!(header(&bytes), Ok(Header::Proxied(ends)));
    assert!(bytes.starts_with(&SIGNATURE));
    bytes[FIXED + V4.len()..].to_vec()
}

#[test]
fn tls_tlvs_match_haproxy() {
    assert_eq!(
        tlvs(&TLS),
        [
            &b"\x02\x00\x01s"[..],
            b"\x20\x00\x2c\x07\0\0\0\0",
            b"\x21\x00\x07TLSv1.3",
            b"\x23\x00\x16TLS_AES_128_GCM_SHA256",
            b"\x22\x00\x01c",
        ]
        .concat()
    );
    let none = ClientTls {
        version: "1.2",
        cipher: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        resumed: false,
        certificate: false,
        cn: None,
        server_name: None,
        alpn: None,
        identity: None,
        der: None,
    };
    assert_eq!(
        tlvs(&none),
        [
            &b"\x20\x00\x2d\x01\0\0\0\x01"[..],
            b"\x21\x00\x07TLSv1.2",
            b"\x23\x00\x1bECDHE-RSA-CHACHA20-POLY1305",
        ]
        .concat()
    );
    let endpoints = ends("10.0.0.1:4660", "10.0.0.2:443");
    for plain in [
        Version::V2.encode_proxied(endpoints, Some(&TLS)),
        Version::V2Tls.encode_proxied(endpoints, None),
    ] {
        assert_eq!(plain, with_tlvs(&[]));
    }
}

#[test]
fn resumed_certificate_has_only_the_session_flag() {
    let resumed = |certificate| {
        let tls = ClientTls {
            resumed: true,
            certificate,
            cn: None,
            server_name: None,
            ..TLS
        };
        tlvs(&tls)[3..8].to_vec()
    };
    assert_eq!(resumed(true), [5, 0, 0, 0, 0]);
    assert_eq!(resumed(false), [1, 0, 0, 0, 1]);
}

#[test]
fn identity_alpn_and_certificate_are_encoded() {
    let tls = ClientTls {
        alpn: Some("h2"),
        identity: Some("uri:spiffe://x/y"),
        ..TLS
    };
    let written = tlvs(&tls);
    assert!(written.starts_with(b"\x02\x00\x01s\x01\x00\x02h2\xe5\x00\x10uri:spiffe://x/y\x20"));
    assert!(!written.windows(3).any(|part| part == b"DER"));
    let ends = ends("10.0.0.1:4660", "10.0.0.2:443");
    let full = Version::V2TlsFull.encode_proxied(ends, Some(&tls));
    assert_eq!(header(&full), Ok(Header::Proxied(ends)));
    assert!(full.ends_with(b"\x22\x00\x01c\x28\x00\x03DER"));
}

#[test]
fn oversized_certificate_is_left_out() {
    let fits = |size: usize| {
        let der = vec![7; size];
        let tls = ClientTls {
            der: Some(&der),
            ..TLS
        };
        let ends = ends("[2001:db8::1]:1", "[2001:db8::2]:2");
        let bytes = Version::V2TlsFull.encode_proxied(ends, Some(&tls));
        let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        assert_eq!(FIXED + rest, bytes.len());
        bytes.len() > size
    };
    assert!(fits(65_000));
    let most = (65_000..66_000)
        .take_while(|&size| fits(size))
        .last()
        .unwrap();
    assert!(!fits(most + 1) && most < 65_535);
    assert!(!fits(100_000));
}

#[test]
fn client_without_address_is_unspecified() {
    assert_eq!(Version::V1.encode_unspecified(None), b"PROXY UNKNOWN\r\n");
    for version in [Version::V2, Version::V2Tls, Version::V2TlsFull] {
        assert_eq!(
            header(&version.encode_unspecified(Some(&TLS))),
            Ok(Header::Local)
        );
        assert_eq!(version.encode_unspecified(None)[12..], [0x21, 0, 0, 0]);
    }
}

#[test]
fn oversized_name_is_left_out() {
    let long = "a".repeat(70_000);
    let without = ClientTls { cn: None, ..TLS };
    let with = ClientTls {
        cn: Some(&long),
        ..TLS
    };
    assert_eq!(tlvs(&with), tlvs(&without));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::V4),
        any::<Ipv6Addr>().prop_map(IpAddr::V6),
        any::<Ipv4Addr>().prop_map(|ip| IpAddr::V6(ip.to_ipv6_mapped())),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

use std::net::IpAddr;

/// Headers that are almost valid. Purely random bytes rarely come close to a valid header.
fn almost_valid() -> impl Strategy<Value = Vec<u8>> {
    let line = "PROXY (TCP4|TCP6|UNKNOWN|[A-Z]{0,8})( [0-9a-f.:]{0,12}){0,5}\r?\n?";
    let family = prop_oneof![Just(0x11), Just(0x21), Just(0x00), any::<u8>()];
    let command = prop_oneof![Just(0x20), Just(0x21), any::<u8>()];
    let body = prop::collection::vec(any::<u8>(), 0..64);
    let value = prop::collection::vec(any::<u8>(), 0..8);
    let tlvs = prop::collection::vec((0_u8..6, value), 0..4).prop_map(|tlvs| {
        let tlvs = tlvs.into_iter();
        let tlvs =
            tlvs.flat_map(|(kind, value)| [vec![kind, 0, value.len() as u8], value].concat());
        tlvs.collect::<Vec<u8>>()
    });
    let binary = (command, family, body, tlvs, any::<bool>()).prop_map(
        |(command, family, body, tlvs, right)| {
            let addresses = match family {
                0x11 => 12,
                0x21 => 36,
                _ => 0,
            };
            let mut rest = body;
            if right {
                rest.resize(addresses, 7);
                rest.extend(tlvs);
            }
            v2(command, family, &rest)
        },
    );
    prop_oneof![line.prop_map(String::into_bytes), binary]
}

proptest! {
    #[test]
    fn encoded_header_is_decoded(source in address(), destination in address(), cn in ".{0,80}") {
        let ends = Endpoints::new(source, destination);
        let tls = ClientTls { cn: Some(&cn), ..TLS };
        for version in [Version::V1, Version::V2, Version::V2Tls, Version::V2TlsFull] {
            let bytes = version.encode_proxied(ends, Some(&tls));
            prop_assert_eq!(header(&bytes), Ok(Header::Proxied(ends)));
            check_invariants(&bytes);
        }
    }

    #[test]
    fn almost_valid_headers_keep_the_invariants(
        header in almost_valid(),
        after in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        check_invariants(&[header, after].concat());
    }

    #[test]
    fn random_bytes_keep_the_invariants(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        check_invariants(&bytes);
        prop_assert!(!matches!(parse(&bytes), Ok(Some(_))));
    }
}
