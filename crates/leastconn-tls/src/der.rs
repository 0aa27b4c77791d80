//! Encoding and reading of DER values.

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_ID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// The tag of the version in a certificate.
pub(crate) const VERSION: u8 = 0xa0;
/// The tag of the extensions in a certificate.
pub(crate) const EXTENSIONS: u8 = 0xa3;

/// Encodes a value, given its tag and content.
pub fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short @ ..=0x7f) => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let significant = &bytes[zeros..];
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// Reads consecutive DER values.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// Reads the fields of a certificate's signed part (TBSCertificate), starting with the serial
    /// number.
    pub(crate) fn certificate_fields(signed: &'a [u8]) -> Option<Self> {
        let mut fields = Reader(Reader(signed).content(SEQUENCE)?);
        if fields.peek() == Some(VERSION) {
            fields.next()?;
        }
        Some(fields)
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Reads the next value. Returns its tag and its content.
    pub(crate) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, header, length) = self.header()?;
        let end = header.checked_add(length)?;
        let content = self.0.get(header..end)?;
        self.0 = &self.0[end..];
        Some((tag, content))
    }

    /// Reads the next value. Returns its content if it has the expected tag.
    pub(crate) fn content(&mut self, expected: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.next()?;
        (tag == expected).then_some(content)
    }

    /// Reads the next value. Returns it with its header if it has the expected tag.
    pub(crate) fn whole(&mut self, expected: u8) -> Option<&'a [u8]> {
        let start = self.0;
        self.content(expected)?;
        start.get(..start.len() - self.0.len())
    }

    /// Returns the tag, the length of the header and the length of the content. Length
    /// fields of up to four bytes are supported: neither handshake messages nor CRL files contain longer
    /// values.
    fn header(&self) -> Option<(u8, usize, usize)> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        if first < 0x80 {
            return Some((tag, 2, usize::from(first)));
        }
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let bytes = rest.get(..count)?;
        let length = bytes
            .iter()
            .fold(0, |length, &byte| length << 8 | usize::from(byte));
        Some((tag, 2 + count, length))
    }
}
