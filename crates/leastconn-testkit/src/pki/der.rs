//! A minimal DER encoder for certificates that rcgen does not produce: several common
//! names, control characters, invalid UTF-8.

use rcgen::{KeyPair, SigningKey};

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
pub(super) const OID: u8 = 0x06;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const UTF8_STRING: u8 = 0x0c;

/// Index of `issuer` in a TBSCertificate with a version field.
pub(super) const ISSUER: usize = 3;
/// Index of `subject` in a TBSCertificate with a version field.
pub(super) const SUBJECT: usize = 5;

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

/// The lengths of the header and the content of the first value in `der`.
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

/// The elements of a constructed value, each with its header.
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

/// Replaces a field of a certificate, and signs it again.
pub(super) fn with_field(cert: &[u8], field: usize, value: &[u8], key: &KeyPair) -> Vec<u8> {
    rewritten(cert, key, |fields| fields[field] = value)
}

/// Converts a certificate to X.509 version 1, which has no extensions and no version
/// field.
pub(super) fn version_1(cert: &[u8], key: &KeyPair) -> Vec<u8> {
    const VERSION: u8 = 0xa0;
    const EXTENSIONS: u8 = 0xa3;
    rewritten(cert, key, |fields| {
        fields.retain(|field| ![VERSION, EXTENSIONS].contains(&field[0]));
    })
}

/// Converts a CRL to version 1, which has no extensions and so no CRL number.
pub fn crl_version_1(list: &[u8], key: &KeyPair) -> Vec<u8> {
    const VERSION: u8 = 0x02;
    const EXTENSIONS: u8 = 0xa0;
    rewritten(list, key, |fields| {
        fields.retain(|field| ![VERSION, EXTENSIONS].contains(&field[0]));
    })
}

/// Removes `nextUpdate` from a CRL.
pub fn crl_without_next_update(list: &[u8], key: &KeyPair) -> Vec<u8> {
    const NEXT_UPDATE: usize = 4;
    rewritten(list, key, |fields| {
        fields.remove(NEXT_UPDATE);
    })
}

/// Changes the fields of a certificate or CRL, and signs it again.
pub(super) fn rewritten<'a>(
    signed: &'a [u8],
    key: &KeyPair,
    change: impl FnOnce(&mut Vec<&'a [u8]>),
) -> Vec<u8> {
    let [tbs, algorithm, _signature] = children(signed)[..] else {
        panic!("not a signed structure")
    };
    let mut fields = children(tbs);
    change(&mut fields);
    let tbs = tlv(SEQUENCE, &fields.concat());
    // A bit string starts with the number of unused bits.
    let signature = [&[0], &key.sign(&tbs).unwrap()[..]].concat();
    tlv(
        SEQUENCE,
        &[&tbs, algorithm, &tlv(BIT_STRING, &signature)].concat(),
    )
}
