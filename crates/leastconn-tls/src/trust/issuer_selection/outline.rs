//! The fields of a certificate that identify its issuer.
//!
//! Parsing does not allocate and takes linear time, because the certificates come from
//! clients that are not verified yet.

use crate::der::{
    BIT_STRING, BOOLEAN, EXTENSIONS, INTEGER, OBJECT_ID, OCTET_STRING, Reader, SEQUENCE,
};

/// The tag of `keyIdentifier` in an authority key identifier.
const KEY_IDENTIFIER: u8 = 0x80;

const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];

/// The parts of a `SubjectPublicKeyInfo`, without their headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublicKey<'a> {
    pub(super) algorithm: &'a [u8],
    pub(super) bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Parses the content of a `SubjectPublicKeyInfo`.
    pub(super) fn parse(content: &'a [u8]) -> Option<Self> {
        let mut fields = Reader(content);
        Some(Self {
            algorithm: fields.content(SEQUENCE)?,
            bits: bits(fields.content(BIT_STRING)?)?,
        })
    }
}

/// Fields of a certificate. `signed` includes its DER header, the other fields do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outline<'a> {
    pub(super) signed: &'a [u8],
    pub(super) signature_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) key: PublicKey<'a>,
    pub(super) subject_key_id: Option<&'a [u8]>,
    pub(super) authority_key_id: Option<&'a [u8]>,
}

impl<'a> Outline<'a> {
    /// Returns `None` if `der` is not a certificate.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(der);
        let mut certificate = Reader(outer.content(SEQUENCE)?);
        let signed = certificate.whole(SEQUENCE)?;
        let signature_algorithm = certificate.content(SEQUENCE)?;
        let signature = bits(certificate.content(BIT_STRING)?)?;
        let mut fields = Reader::certificate_fields(signed)?;
        fields.content(INTEGER)?;
        fields.content(SEQUENCE)?;
        let issuer = fields.content(SEQUENCE)?;
        let _validity = fields.content(SEQUENCE)?;
        let subject = fields.content(SEQUENCE)?;
        let key = PublicKey::parse(fields.content(SEQUENCE)?)?;
        let mut outline = Self {
            signed,
            signature_algorithm,
            signature,
            issuer,
            subject,
            key,
            subject_key_id: None,
            authority_key_id: None,
        };
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                outline.read_key_ids(Reader(content).content(SEQUENCE)?);
            }
        }
        Some(outline)
    }

    /// Reads the key identifiers. Identifiers that do not parse are ignored: they only
    /// determine the order in which issuers are tried.
    fn read_key_ids(&mut self, extensions: &'a [u8]) {
        let mut extensions = Reader(extensions);
        while let Some(extension) = extensions.content(SEQUENCE) {
            let mut extension = Reader(extension);
            let id = extension.content(OBJECT_ID);
            if extension.peek() == Some(BOOLEAN) {
                extension.next();
            }
            let value = extension.content(OCTET_STRING);
            match (id, value) {
                (Some(SUBJECT_KEY_ID), Some(value)) => {
                    self.subject_key_id = Reader(value).content(OCTET_STRING);
                }
                (Some(AUTHORITY_KEY_ID), Some(value)) => {
                    let key_id = Reader(value).content(SEQUENCE);
                    self.authority_key_id =
                        key_id.and_then(|value| Reader(value).content(KEY_IDENTIFIER));
                }
                _ => {}
            }
        }
    }
}

/// The content of a bit string, if it consists of whole bytes.
fn bits(content: &[u8]) -> Option<&[u8]> {
    match content {
        [0, bytes @ ..] => Some(bytes),
        _ => None,
    }
}
