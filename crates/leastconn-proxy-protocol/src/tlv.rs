//! The TLVs (type, length, value) that follow the addresses in a version 2 header.

use super::{FIXED, HeaderError, SIGNATURE};

/// Combined length of a TLV's type and length fields.
const HEAD: usize = 3;

const CRC32C: u8 = 0x03;

/// One TLV of a version 2 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// The type, such as `0x02` for the authority (SNI) or `0x20` for the TLS fields.
    pub kind: u8,
    /// The value, without type and length.
    pub value: &'a [u8],
}

/// Iterator over TLVs; see [`tlvs`].
#[derive(Clone, Debug)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    /// If there is an error, it is the last item.
    type Item = Result<Tlv<'a>, HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let Some((&[kind, high, low], rest)) = rest.split_first_chunk::<HEAD>() else {
            return Some(Err(HeaderError::Malformed("truncated TLV")));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Some(Err(HeaderError::Malformed("TLV exceeds the header")));
        };
        self.0 = rest;
        Some(Ok(Tlv { kind, value }))
    }
}

/// Lists the TLVs of a complete header, in the order in which they appear.
///
/// `header` must end where the header ends; [`parse`](crate::parse) returns its length. Version 1
/// headers, `LOCAL` headers and incomplete headers yield nothing.
///
/// ```
/// use leastconn_proxy_protocol::{ClientTls, Endpoints, Version, tlvs};
///
/// let endpoints = Endpoints::new("192.0.2.7:50000".parse()?, "198.51.100.1:443".parse()?);
/// let mut tls = ClientTls::new("1.3", "TLS_AES_128_GCM_SHA256");
/// tls.server_name = Some("db.example");
/// let header = Version::V2Tls.encode_proxied(endpoints, Some(&tls));
///
/// let authority = tlvs(&header).filter_map(Result::ok).find(|tlv| tlv.kind == 0x02);
/// assert_eq!(authority.map(|tlv| tlv.value), Some(&b"db.example"[..]));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[must_use]
pub fn tlvs(header: &[u8]) -> Tlvs<'_> {
    let is_proxy = header.starts_with(&SIGNATURE) && header.get(12) == Some(&0x21);
    let addresses = match header.get(13) {
        Some(0x00) => 0,
        Some(0x11) => 12,
        Some(0x21) => 36,
        _ => return Tlvs(&[]),
    };
    let tlvs = header.get(FIXED + addresses..);
    Tlvs(tlvs.filter(|_| is_proxy).unwrap_or_default())
}

/// Checks that `header[start..]` consists of complete TLVs only, and verifies the checksum if there
/// is one.
pub(super) fn check(header: &[u8], start: usize) -> Result<(), HeaderError> {
    let mut checksum = None;
    let mut at = start;
    for tlv in Tlvs(&header[start..]) {
        let Tlv { kind, value } = tlv?;
        let end = at + HEAD + value.len();
        if kind == CRC32C {
            if value.len() != 4 || checksum.is_some() {
                return Err(HeaderError::Malformed(
                    "more than one checksum, or not 4 bytes",
                ));
            }
            checksum = Some(at + HEAD..end);
        }
        at = end;
    }
    let Some(range) = checksum else {
        return Ok(());
    };
    // The checksum covers the whole header, with the checksum field itself set to zero.
    let mut crc = Crc::new();
    crc.add(&header[..range.start]);
    crc.add(&[0; 4]);
    crc.add(&header[range.end..]);
    if header[range] == crc.finish().to_be_bytes() {
        Ok(())
    } else {
        Err(HeaderError::Checksum)
    }
}

/// CRC-32C (Castagnoli), computed bit by bit. A lookup table would save only microseconds per
/// connection.
pub(super) struct Crc(u32);

impl Crc {
    pub(super) const fn new() -> Self {
        Self(u32::MAX)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        /// The polynomial 0x1EDC6F41 in reversed bit order.
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        for &byte in bytes {
            self.0 ^= u32::from(byte);
            for _ in 0..8 {
                self.0 = (self.0 >> 1) ^ (POLYNOMIAL & (self.0 & 1).wrapping_neg());
            }
        }
    }

    pub(super) const fn finish(self) -> u32 {
        !self.0
    }
}
