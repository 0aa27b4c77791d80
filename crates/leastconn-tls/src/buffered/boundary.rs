//! Where records end in what comes, and whether their headers are acceptable.

use super::super::record::HEADER;

/// Follows a stream of TLS records by their headers.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    header: [u8; HEADER],
    /// Bytes of `header` that have come.
    have: usize,
    /// Bytes of `header` that rustls was given: during the handshake it reads by itself.
    given: usize,
    /// What of the record's payload is to come.
    left: usize,
}

/// The next step in a stream of records.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes were kept: the header is not complete.
    Incomplete(usize),
    /// So many bytes completed a header.
    Header(usize),
    /// So many bytes of a payload; `true`: the record ends there.
    Payload(usize, bool),
}

impl Boundary {
    /// Follows `bytes` up to the end of a header or a record at most.
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

    /// Follows all of `bytes`, which rustls reads by itself.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (Step::Incomplete(count) | Step::Header(count) | Step::Payload(count, _)) =
                self.advance(bytes);
            bytes = &bytes[count..];
            self.given = self.have;
        }
    }

    /// The header that was completed last.
    pub(super) const fn header(&self) -> [u8; HEADER] {
        self.header
    }

    /// What of that header rustls was not given, from here on given.
    pub(super) fn take_header(&mut self) -> ([u8; HEADER], usize) {
        (self.header, std::mem::take(&mut self.given))
    }

    /// Whether rustls was given a part of a header: nothing may be put before the rest.
    pub(super) const fn is_within_given_header(&self) -> bool {
        self.given > 0
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
