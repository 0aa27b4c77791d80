//! Where records end in what comes.

use super::super::record::HEADER;

/// Follows a stream of TLS records by their headers.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    header: [u8; HEADER],
    /// Bytes of `header` that have come.
    have: usize,
    /// Bytes of the record that are to come behind it.
    left: usize,
}

impl Boundary {
    /// Follows `bytes` up to the end of a record at most: how many that are, and
    /// whether one ends there.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut count = 0;
        if self.left == 0 {
            count = bytes.len().min(HEADER - self.have);
            self.header[self.have..][..count].copy_from_slice(&bytes[..count]);
            self.have += count;
            if self.have < HEADER {
                return (count, false);
            }
            self.have = 0;
            self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        }
        let rest = self.left.min(bytes.len() - count);
        self.left -= rest;
        (count + rest, self.left == 0)
    }

    /// Follows all of `bytes`.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (count, _) = self.advance(bytes);
            bytes = &bytes[count..];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes come, records end where they end.
        #[test]
        fn records_end_where_they_end(
            lengths in proptest::collection::vec(0..300_usize, 0..10),
            pieces in proptest::collection::vec(1..200_usize, 1..20),
        ) {
            let mut stream = Vec::new();
            let mut ends = Vec::new();
            for length in lengths {
                stream.extend([23, 3, 3]);
                stream.extend(u16::try_from(length).unwrap().to_be_bytes());
                stream.extend(vec![0xff; length]);
                ends.push(stream.len());
            }
            let mut boundary = Boundary::default();
            let (mut at, mut found) = (0, Vec::new());
            for piece in pieces.iter().cycle() {
                if at == stream.len() {
                    break;
                }
                let end = stream.len().min(at + piece);
                while at < end {
                    let (count, whole) = boundary.advance(&stream[at..end]);
                    at += count;
                    if whole {
                        found.push(at);
                    }
                }
            }
            prop_assert_eq!(found, ends);
        }
    }
}
