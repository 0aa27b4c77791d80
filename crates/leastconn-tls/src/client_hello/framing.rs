//! Finds the end of a ClientHello while it is being received. rustls parses the ClientHello only
//! when it is complete, because rustls' own buffers would be twice as large.

use crate::record::{CLIENT_HELLO, HEADER, MAX_PLAINTEXT, content::HANDSHAKE};

/// Maximum length of a ClientHello in bytes, without its header. It is ten times the length
/// that real clients send, and equals Java's limit for handshake messages. rustls accepts
/// 64 KiB.
const MAX_MESSAGE: usize = 32 * 1024;

/// Maximum number of bytes received before the ClientHello is complete: enough for the
/// longest ClientHello in full records. A ClientHello that is split into many small records
/// must be shorter, because the record headers count, too.
pub(super) const MAX_BYTES: usize = 34 * 1024;

/// The result of parsing the bytes received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Incomplete,
    /// The message ends after this many bytes. The flag is `true` if the record ends there,
    /// too.
    Complete(usize, bool),
    /// The bytes are not a ClientHello, or it is too long.
    Malformed,
}

/// The state of parsing the records and the message in them.
#[derive(Debug, Default)]
pub(super) struct HelloFraming {
    /// Number of bytes that were parsed.
    at: usize,
    record: [u8; HEADER],
    record_have: usize,
    record_left: usize,
    message: [u8; 4],
    message_have: usize,
    message_left: usize,
}

impl HelloFraming {
    /// Minimum number of bytes that are still missing. The number is exact if the client uses
    /// records of the maximum size.
    pub(super) fn missing(&self) -> usize {
        let records = self
            .message_left
            .saturating_sub(self.record_left)
            .div_ceil(MAX_PLAINTEXT);
        self.message_left + records * HEADER
    }

    /// Parses the new bytes at the end of `bytes`, which holds everything received so far.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Found {
        while let Some(&byte) = bytes.get(self.at) {
            if self.record_left == 0 {
                self.at += 1;
                self.record[self.record_have] = byte;
                self.record_have += 1;
                if self.record_have == HEADER {
                    self.record_have = 0;
                    let [kind, major, _, high, low] = self.record;
                    self.record_left = usize::from(u16::from_be_bytes([high, low]));
                    let is_empty = self.record_left == 0;
                    if kind != HANDSHAKE || major != 3 || is_empty {
                        return Found::Malformed;
                    }
                }
            } else if self.message_have < self.message.len() {
                self.at += 1;
                self.record_left -= 1;
                self.message[self.message_have] = byte;
                self.message_have += 1;
                let [kind, a, b, c] = self.message;
                if self.message_have == self.message.len() {
                    self.message_left = u32::from_be_bytes([0, a, b, c]) as usize;
                    if kind != CLIENT_HELLO
                        || self.message_left == 0
                        || self.message_left > MAX_MESSAGE
                    {
                        return Found::Malformed;
                    }
                }
            } else {
                let count = (bytes.len() - self.at)
                    .min(self.record_left)
                    .min(self.message_left);
                self.at += count;
                self.record_left -= count;
                self.message_left -= count;
                if self.message_left == 0 {
                    return Found::Complete(self.at, self.record_left == 0);
                }
            }
        }
        if bytes.len() >= MAX_BYTES {
            return Found::Malformed;
        }
        Found::Incomplete
    }
}

/// Whether `bytes`, which follow a ClientHello, may be the beginning of a record.
pub(in super::super) fn may_be_record(bytes: &[u8]) -> bool {
    let kind = bytes.first().is_none_or(|kind| (20..=23).contains(kind));
    kind && bytes.get(1).is_none_or(|major| *major == 3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(length: usize, fragment: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        let message = [&[CLIENT_HELLO], &size[1..], &vec![7; length]].concat();
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE, 3, 1], &length[..], part].concat()
        };
        message.chunks(fragment).flat_map(record).collect()
    }

    #[test]
    fn other_records_and_messages_are_malformed() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            &[21, 3, 1, 0, 2, 2, 40],
            &[22, 2, 1, 0, 2],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0, 4, 2, 0, 0, 1],
            &[22, 3, 1, 0, 4, 1, 1, 0, 0],
            &[22, 3, 1, 0, 4, 1, 0, 0xff, 0xff],
        ] {
            assert_eq!(HelloFraming::default().advance(bytes), Found::Malformed);
        }
    }

    #[test]
    fn bytes_after_the_message_are_detected() {
        let mut bytes = hello(100, 1000);
        let length = bytes.len();
        bytes.extend([22, 3, 3]);
        assert_eq!(
            HelloFraming::default().advance(&bytes),
            Found::Complete(length, true)
        );
        bytes[4] += 1;
        assert_eq!(
            HelloFraming::default().advance(&bytes),
            Found::Complete(length, false)
        );
        assert!(may_be_record(&[]) && may_be_record(&[20]) && may_be_record(&[23, 3]));
        assert!(!may_be_record(b"G") && !may_be_record(&[22, 4]));
    }

    #[test]
    fn longest_message_fits_and_memory_is_bounded() {
        let bytes = hello(MAX_MESSAGE, 1 << 14);
        assert!(bytes.len() < MAX_BYTES);
        assert_eq!(
            HelloFraming::default().advance(&bytes),
            Found::Complete(bytes.len(), true)
        );
        let tiny = hello(MAX_MESSAGE, 1);
        assert_eq!(
            HelloFraming::default().advance(&tiny[..MAX_BYTES]),
            Found::Malformed
        );
    }

    proptest! {
        #[test]
        fn end_is_found_for_every_split(length in 1..5000_usize, fragment in 1..3000_usize, piece in 1..3000_usize) {
            let bytes = hello(length, fragment);
            let mut framing = HelloFraming::default();
            let mut end = 0;
            loop {
                end = bytes.len().min(end + piece);
                match framing.advance(&bytes[..end]) {
                    Found::Incomplete => prop_assert!(end < bytes.len()),
                    found => {
                        prop_assert_eq!(found, Found::Complete(bytes.len(), true));
                        break;
                    }
                }
            }
        }
    }
}
