//! Distinguished names: decoding of strings (X.520), and comparison as in RFC 5280.

use std::char::decode_utf16;

use x509_parser::der_parser::asn1_rs::{Any, FromDer, Tag};

use crate::der;

/// Decodes an attribute value according to its ASN.1 string type. Returns `None` if the value is
/// not a string, or if its bytes are not valid for the type.
///
/// A `TeletexString` must be ASCII: implementations disagree on the meaning of other bytes.
pub fn decode(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    match value.tag() {
        Tag::Utf8String => std::str::from_utf8(bytes).ok().map(str::to_owned),
        Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString
        | Tag::TeletexString => bytes
            .is_ascii()
            .then(|| bytes.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (units, []) = bytes.as_chunks::<2>() else {
                return None;
            };
            decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)))
                .collect::<Result<_, _>>()
                .ok()
        }
        Tag::UniversalString => {
            let (units, []) = bytes.as_chunks::<4>() else {
                return None;
            };
            let units = units.iter().map(|unit| u32::from_be_bytes(*unit));
            units.map(char::from_u32).collect()
        }
        _ => None,
    }
}

/// The canonical form of a distinguished name: names that are equal under RFC 5280, section 7.1,
/// have the same form. The form does not depend on string types, case or repeated spaces. `name` is
/// the complete SEQUENCE. A name that does not parse is returned unchanged.
pub fn canonical(name: &[u8]) -> Vec<u8> {
    match canonical_rdns(name) {
        Some(rdns) => der::encode(0x30, &rdns.concat()),
        None => name.to_vec(),
    }
}

/// The relative names in the form of [`canonical`], each with its header. `None` if the
/// name does not parse.
pub fn canonical_rdns(name: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (rest, sequence) = Any::from_der(name).ok()?;
    if !rest.is_empty() || sequence.tag() != Tag::Sequence {
        return None;
    }
    let mut rdns = Vec::new();
    let mut content = sequence.data;
    while !content.is_empty() {
        let (after, rdn) = Any::from_der(content).ok()?;
        if rdn.tag() != Tag::Set {
            return None;
        }
        let mut attributes = Vec::new();
        let mut members = rdn.data;
        while !members.is_empty() {
            let (after, attribute) = Any::from_der(members).ok()?;
            attributes.push(canonical_attribute(&attribute)?);
            members = after;
        }
        attributes.sort();
        rdns.push(der::encode(0x31, &attributes.concat()));
        content = after;
    }
    Some(rdns)
}

fn canonical_attribute(attribute: &Any<'_>) -> Option<Vec<u8>> {
    let (value_at, _oid) = Any::from_der(attribute.data).ok()?;
    let (_, value) = Any::from_der(value_at).ok()?;
    let oid = &attribute.data[..attribute.data.len() - value_at.len()];
    let value = match decode(&value) {
        Some(text) => der::encode(0x0c, fold(&text).as_bytes()),
        None => value_at.to_vec(),
    };
    Some(der::encode(0x30, &[oid, &value].concat()))
}

/// Converts to lower case, with single spaces between words.
fn fold(text: &str) -> String {
    let lower = text.to_lowercase();
    let mut folded = String::with_capacity(lower.len());
    for word in lower.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
    }
    folded
}
