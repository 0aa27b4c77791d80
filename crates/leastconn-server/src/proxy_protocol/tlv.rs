//! What may follow the addresses of version 2: a type, a length, a value, and so
//! on. Of what comes in, only the checksum means anything here.

use super::HeaderError;

/// Type and length.
const HEAD: usize = 3;

const CRC32C: u8 = 0x03;

/// Checks that what stands in `header` from `start` on is a whole number of TLVs,
/// and the checksum if one of them is that.
pub(super) fn check(header: &[u8], start: usize) -> Result<(), HeaderError> {
    let mut checksum = None;
    let mut at = start;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + HEAD) else {
            return Err(HeaderError::Malformed("a TLV is cut off"));
        };
        let value = at + HEAD;
        let end = value + usize::from(u16::from_be_bytes([high, low]));
        if end > header.len() {
            return Err(HeaderError::Malformed("a TLV is longer than the header"));
        }
        if kind == CRC32C {
            if end - value != 4 || checksum.is_some() {
                return Err(HeaderError::Malformed(
                    "its checksum is not one of four bytes",
                ));
            }
            checksum = Some(value..end);
        }
        at = end;
    }
    let Some(place) = checksum else {
        return Ok(());
    };
    // It is that of the header with zeros in its own place.
    let mut state = Crc::new();
    state.add(&header[..place.start]);
    state.add(&[0; 4]);
    state.add(&header[place.end..]);
    if header[place] == state.finish().to_be_bytes() {
        Ok(())
    } else {
        Err(HeaderError::Checksum)
    }
}

/// CRC-32C (Castagnoli), a bit at a time: a table would save microseconds in a
/// connection's life, and this can be read.
pub(super) struct Crc(u32);

impl Crc {
    pub(super) const fn new() -> Self {
        Self(u32::MAX)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        /// The polynomial 0x1EDC6F41, its bits reversed.
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
