//! Record boundaries in the received bytes, and validation of record headers.

use super::super::record::HEADER;

/// Follows a stream of TLS records by their headers.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    header: [u8; HEADER],
    /// Bytes of `header` that were received.
    have: usize,
    /// Bytes of `header` that rustls was given: during the handshake it reads by itself.
    given: usize,
    /// Bytes of the record's payload that are missing.
    left: usize,
}

/// The next step in a stream of records.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Number of bytes that were kept: the header is incomplete.
    Incomplete(usize),
    /// Number of bytes that completed a header.
    Header(usize),
    /// Number of bytes of a payload, and whether the record ends with them.
    Payload(usize, bool),
}

impl Boundary {
    /// Advances in `bytes`, at most to the end of a header or record.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Step {
        if self.left == 0 {
            let count = bytes.len().min(HEADER - self.have);
            self.header[self.have..][..count].copy_from_slice(&bytes[..count]);
            self.have += count;
            if self.have < HEADER {
                return Step::Incomplete(count);
            }
            self.have = 0;
            self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
            return Step::Header(count);
        }
        let count = self.left.min(bytes.len());
        self.left -= count;
        Step::Payload(count, self.left == 0)
    }

    /// Advances over all `bytes`, which rustls reads by itself.
    pub(super) fn skip(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (Step::Incomplete(count) | Step::Header(count) | Step::Payload(count, _)) =
                self.advance(bytes);
            bytes = &bytes[count..];
            self.given = self.have;
        }
    }

    /// The last complete header.
    pub(super) const fn header(&self) -> [u8; HEADER] {
        self.header
    }

    /// The last header and how much of it rustls was given; from now on all of it counts as
    /// given.
    pub(super) fn take_header(&mut self) -> ([u8; HEADER], usize) {
        (self.header, std::mem::take(&mut self.given))
    }

    /// Whether rustls was given only a part of a header: nothing may be inserted before the
    /// rest.
    pub(super) const fn is_within_given_header(&self) -> bool {
        self.given > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Boundaries do not depend on how the bytes are split.
        #[test]
        fn boundaries_do_not_depend_on_splits(
            lengths in proptest::collection::vec(1..300_usize, 0..10),
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
                    match boundary.advance(&stream[at..end]) {
                        Step::Incomplete(count) => at += count,
                        Step::Header(count) => {
                            at += count;
                            prop_assert_eq!(&boundary.header()[..3], &[23, 3, 3]);
                        }
                        Step::Payload(count, whole) => {
                            at += count;
                            if whole {
                                found.push(at);
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(found, ends);
        }
    }
}
