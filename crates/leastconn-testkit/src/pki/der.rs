//! Just enough DER to give a certificate what rcgen rightly refuses to write:
//! several common names, control characters, text that is no UTF-8.

use rcgen::{KeyPair, SigningKey};

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
pub(super) const OID: u8 = 0x06;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const UTF8_STRING: u8 = 0x0c;

/// The position of `issuer` in a TBSCertificate that has a version.
pub(super) const ISSUER: usize = 3;
/// The same of `subject`.
pub(super) const SUBJECT: usize = 5;

/// One tag, length, value.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let skip = bytes.iter().take_while(|b| **b == 0).count();
            out.push(0x80 | (bytes.len() - skip) as u8);
            out.extend(&bytes[skip..]);
        }
    }
    out.extend(content);
    out
}

/// The length of the header and of the content of the first value in `der`.
fn lengths(der: &[u8]) -> (usize, usize) {
    match der[1] {
        short @ 0..=0x7f => (2, short.into()),
        long => {
            let count = usize::from(long & 0x7f);
            let length = der[2..2 + count]
                .iter()
                .fold(0, |n, b| n << 8 | usize::from(*b));
            (2 + count, length)
        }
    }
}

/// The values inside a constructed value, each with its header.
fn children(der: &[u8]) -> Vec<&[u8]> {
    let (header, length) = lengths(der);
    let mut rest = &der[header..header + length];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (header, length) = lengths(rest);
        let (child, after) = rest.split_at(header + length);
        found.push(child);
        rest = after;
    }
    found
}

/// The same certificate with another field, signed anew.
pub(super) fn with_field(cert: &[u8], field: usize, value: &[u8], key: &KeyPair) -> Vec<u8> {
    rewritten(cert, key, |fields| fields[field] = value)
}

/// The same certificate as X.509 version 1 has it: without extensions and without a
/// version, which began with the second.
pub(super) fn version_1(cert: &[u8], key: &KeyPair) -> Vec<u8> {
    const VERSION: u8 = 0xa0;
    const EXTENSIONS: u8 = 0xa3;
    rewritten(cert, key, |fields| {
        fields.retain(|field| ![VERSION, EXTENSIONS].contains(&field[0]));
    })
}

/// The same revocation list as version 1 has it, without a number of its own.
pub fn crl_version_1(list: &[u8], key: &KeyPair) -> Vec<u8> {
    const VERSION: u8 = 0x02;
    const EXTENSIONS: u8 = 0xa0;
    rewritten(list, key, |fields| {
        fields.retain(|field| ![VERSION, EXTENSIONS].contains(&field[0]));
    })
}

/// The same revocation list without the time by which there will be another one.
pub fn crl_without_next_update(list: &[u8], key: &KeyPair) -> Vec<u8> {
    const NEXT_UPDATE: usize = 4;
    rewritten(list, key, |fields| {
        fields.remove(NEXT_UPDATE);
    })
}

/// A certificate or a revocation list with other fields, signed anew.
pub(super) fn rewritten<'a>(
    signed: &'a [u8],
    key: &KeyPair,
    change: impl FnOnce(&mut Vec<&'a [u8]>),
) -> Vec<u8> {
    let [tbs, algorithm, _signature] = children(signed)[..] else {
        panic!("nothing signed")
    };
    let mut fields = children(tbs);
    change(&mut fields);
    let tbs = tlv(SEQUENCE, &fields.concat());
    // A bit string begins with the number of unused bits.
    let signature = [&[0], &key.sign(&tbs).unwrap()[..]].concat();
    tlv(
        SEQUENCE,
        &[&tbs, algorithm, &tlv(BIT_STRING, &signature)].concat(),
    )
}
