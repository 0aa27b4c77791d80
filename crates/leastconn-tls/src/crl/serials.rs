//! The serial numbers of a CRL in one allocation: CRLs can have a million entries.

use super::without_zeros;

/// Sorted serial numbers without leading zeros. Leading zeros do not matter: a CA may write
/// them in the certificate but not in the CRL, or the other way round.
#[derive(Debug, Default)]
pub(super) struct Serials {
    bytes: Box<[u8]>,
    /// The end offset of each number in `bytes`.
    ends: Box<[u32]>,
}

impl Serials {
    /// `all` has numbers without leading zeros, in any order.
    pub(super) fn new(mut all: Vec<&[u8]>) -> Self {
        all.sort_unstable();
        all.dedup();
        let bytes = all.concat();
        let mut end = 0;
        let ends = all.iter().map(|serial| {
            // The offset fits: files over 64 MiB are not read.
            end += serial.len() as u32;
            end
        });
        Self {
            ends: ends.collect(),
            bytes: bytes.into(),
        }
    }

    pub(super) fn contain(&self, serial: &[u8]) -> bool {
        let serial = without_zeros(serial);
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.at(middle).cmp(serial) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        false
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map(|position| self.at(position))
    }

    fn at(&self, position: usize) -> &[u8] {
        let start = match position {
            0 => 0,
            _ => self.ends[position - 1],
        };
        &self.bytes[start as usize..self.ends[position] as usize]
    }
}
