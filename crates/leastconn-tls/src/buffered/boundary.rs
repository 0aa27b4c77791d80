//! Record boundaries in the received bytes, and validation of record headers.

use super::super::record::HEADER;

/// Tracks the boundaries in a stream of TLS records by their headers.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    header: [u8; HEADER],
    /// Number of bytes of `header` that were received.
    have: usize,
    /// Number of bytes of `header` that rustls already has. During the handshake, rustls reads from
    /// the socket itself and may have read part of a header.
    given: usize,
    /// Number of bytes of the record's payload that were not received yet.
    left: usize,
}

/// The result of advancing in a stream of records.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The header is incomplete. Holds the number of bytes that were added to it.
    Incomplete(usize),
    /// The header is complete. Holds the number of bytes that completed it.
    Header(usize),
    /// Number of bytes of payload, and whether the record ends after them.
    Payload(usize, bool),
}

impl Boundary {
    /// Advances in `bytes`, at most to the end of a header or of a record.
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

    /// Advances over all `bytes`, which rustls has read from the socket itself.
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

    /// Returns the last header, and how many of its bytes rustls already has. The caller must
    /// pass the remaining bytes to rustls.
    pub(super) fn take_header(&mut self) -> ([u8; HEADER], usize) {
        (self.header, std::mem::take(&mut self.given))
    }

    /// Whether rustls has only part of a header. If so, the rest of the header must be passed to
    /// rustls before any other record.
    pub(super) const fn is_within_given_header(&self) -> bool {
        self.given > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
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
