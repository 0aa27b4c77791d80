//! A client that seals arbitrary records, for property tests and fuzzing.

use std::{sync::OnceLock, time::Instant};

use rustls::{ConnectionTrafficSecrets, Error, ProtocolVersion, crypto::aws_lc_rs::cipher_suite};

use super::{
    Cipher, Content, HEADER, KEY_UPDATE, MAX_OVERHEAD, Records, Rekey, SMALL, Violation, content,
};

/// The secrets of one direction after `generation` key updates.
fn secrets(chacha: bool, direction: u8, generation: u8) -> ConnectionTrafficSecrets {
    let key = [direction ^ generation.rotate_left(3); 32].into();
    let iv = [generation; 12].into();
    if chacha {
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }
    } else {
        ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    }
}

const RECEIVING: u8 = 0x5a;
const SENDING: u8 = 0xa5;

/// A key schedule whose keys depend only on the number of key updates.
pub(crate) struct Counted {
    chacha: bool,
    receiving: u8,
    sending: u8,
}

impl Rekey for Counted {
    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.receiving = self.receiving.wrapping_add(1);
        Ok(secrets(self.chacha, RECEIVING, self.receiving))
    }

    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        self.sending = self.sending.wrapping_add(1);
        Ok(secrets(self.chacha, SENDING, self.sending))
    }
}

/// A client that knows the keys of the connection.
pub(crate) struct Client {
    version: ProtocolVersion,
    chacha: bool,
    /// State of the client's sending direction: cipher, sequence number, number of key updates.
    there: (Cipher, u64, u8),
    back: (Cipher, u64, u8),
}

impl Client {
    /// Seals a record of any type. In TLS 1.3 with `kind` 0, the end of `plaintext` is parsed
    /// as the inner type and padding.
    pub(crate) fn seal(&mut self, kind: u8, plaintext: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut record = vec![0; plaintext.len() + MAX_OVERHEAD];
        let (cipher, sequence, _) = &mut self.there;
        let length = cipher.seal(*sequence, kind, plaintext, &mut record)?;
        *sequence += 1;
        record.truncate(length);
        Ok(record)
    }

    /// Switches to new sending keys, as after a KeyUpdate.
    pub(crate) fn rekey(&mut self) -> Result<(), Violation> {
        let next = self.there.2.wrapping_add(1);
        let secrets = secrets(self.chacha, RECEIVING, next);
        self.there = (Cipher::new(self.version, &secrets)?, 0, next);
        Ok(())
    }

    /// Opens records from the record layer, and changes keys after a key update.
    pub(crate) fn back(&mut self, mut bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, Violation> {
        let mut seen = Vec::new();
        while let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER>() {
            let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
            let (record, rest) = bytes.split_at_checked(length).ok_or(Violation::BadRecord)?;
            bytes = rest;
            let mut out = vec![0; length];
            let (kind, count) = self.back.0.open(self.back.1, record, &mut out)?;
            self.back.1 += 1;
            out.truncate(count);
            if kind == content::HANDSHAKE {
                let next = self.back.2.wrapping_add(1);
                let secrets = secrets(self.chacha, SENDING, next);
                self.back = (Cipher::new(self.version, &secrets)?, 0, next);
            }
            seen.push((kind, out));
        }
        match bytes {
            [] => Ok(seen),
            _ => Err(Violation::BadRecord),
        }
    }
}

/// A fixed clock, so that results depend only on the input.
fn still() -> Instant {
    static NOW: OnceLock<Instant> = OnceLock::new();
    *NOW.get_or_init(leastconn::net::now)
}

/// A client and its record layer.
pub(crate) fn pair(tls13: bool, chacha: bool) -> Result<(Client, Records<Counted>), Violation> {
    let (version, suite) = match (tls13, chacha) {
        (true, false) => (
            ProtocolVersion::TLSv1_3,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ),
        (true, true) => (
            ProtocolVersion::TLSv1_3,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ),
        (false, false) => (
            ProtocolVersion::TLSv1_2,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
        (false, true) => (
            ProtocolVersion::TLSv1_2,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    };
    let (receiving, sending) = (secrets(chacha, RECEIVING, 0), secrets(chacha, SENDING, 0));
    let keys = Counted {
        chacha,
        receiving: 0,
        sending: 0,
    };
    let records = Records::new(suite, keys, (0, &receiving), (0, &sending), still)?;
    let client = Client {
        version,
        chacha,
        there: (Cipher::new(version, &receiving)?, 0, 0),
        back: (Cipher::new(version, &sending)?, 0, 0),
    };
    Ok((client, records))
}

/// A record layer whose keys may seal `limit` records.
#[cfg(test)]
pub(crate) fn limited<K>(mut records: Records<K>, limit: u64) -> Records<K> {
    records.limit = limit;
    records
}

/// A client and a record layer that exchange complete records.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) records: Records<Counted>,
}

impl Peer {
    pub(crate) fn new(tls13: bool, chacha: bool) -> Result<Self, Violation> {
        let (client, records) = pair(tls13, chacha)?;
        Ok(Self { client, records })
    }

    /// Passes a complete record to the record layer.
    pub(crate) fn give(&mut self, record: &[u8]) -> Result<(Content, Vec<u8>), Violation> {
        let length = self.records.length(record)?.ok_or(Violation::BadRecord)?;
        let record = record.get(..length).ok_or(Violation::BadRecord)?;
        let mut out = vec![0; self.records.room(length)];
        let content = self.records.open(record, &mut out)?;
        if let Content::Data(count) = content {
            out.truncate(count);
        }
        Ok((content, out))
    }
}

/// Performs the operations that `data` encodes. The client sends records of any type and
/// content, records with one flipped bit, key updates, and raw bytes. Between these
/// operations, the server sends data. Checks that:
///
/// - nothing panics;
/// - received data equals the sent data;
/// - key updates change the keys and are answered;
/// - an alert can be sealed after a violation.
pub(crate) fn drive(data: &[u8]) {
    let Some((&setting, mut data)) = data.split_first() else {
        return;
    };
    let tls13 = setting & 1 > 0;
    let Ok(mut peer) = Peer::new(tls13, setting & 2 > 0) else {
        return;
    };
    // The incomplete handshake message received so far.
    let mut message = Vec::new();
    while let [op, length, rest @ ..] = data {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        data = rest;
        let kind = op & 0x1f;
        let sealed = peer.client.seal(kind, body);
        let (Ok(mut record), true) = (sealed, body.len() < 256) else {
            return;
        };
        match op >> 5 {
            0 => {
                assert!(server_says(&mut peer, body), "a sent record does not open");
                // The sealed record is not sent, so its sequence number can be used again.
                peer.client.there.1 -= 1;
                continue;
            }
            1 => {
                let at = usize::from(*length) * 7 % record.len();
                // The version of a TLS 1.3 record must be ignored (RFC 8446, 5.1).
                if at == 2 {
                    return;
                }
                record[at] ^= 1 << (kind & 7);
                assert!(peer.give(&record).is_err(), "a forged record was opened");
                return;
            }
            2 => record = body.to_vec(),
            _ => {}
        }
        let raw = op >> 5 == 2;
        match peer.give(&record) {
            Ok((Content::Data(_), out)) => {
                assert!(!raw, "raw bytes were opened as a record");
                assert!(kind == content::DATA && out == body || tls13 && kind == 0);
                assert!(
                    message.is_empty(),
                    "data was accepted within a handshake message"
                );
            }
            Ok((Content::Nothing | Content::Pause(_), _))
                if tls13 && kind == content::HANDSHAKE =>
            {
                message.extend_from_slice(body);
                if let [KEY_UPDATE, 0, 0, 1, asks] = message[..] {
                    assert!(asks <= 1 && peer.records.received == 0);
                    assert!(peer.records.has_pending_control() || asks == 0);
                    message.clear();
                    let _ = peer.client.rekey();
                }
                assert!(message.len() < 5);
            }
            Ok((Content::Nothing | Content::Pause(_), _)) => {}
            Ok((Content::End, _)) => {
                assert!(kind == content::ALERT && body.len() == 2 && body[1] == 0 || kind == 0);
                return;
            }
            Err(why) => {
                let mut out = [0; SMALL];
                let length = peer.records.refuse(why, &mut out).unwrap_or(0);
                let seen = peer.client.back(&out[..length]).unwrap_or_default();
                assert_eq!(seen.len(), usize::from(why.alert().is_some()));
                return;
            }
        }
    }
    assert!(
        server_says(&mut peer, b"the end"),
        "the last sent record does not open"
    );
    assert!(!peer.records.has_pending_control());
}

/// Sends pending control records, then data. Returns whether the client
/// received exactly these records.
fn server_says(peer: &mut Peer, data: &[u8]) -> bool {
    let mut out = vec![0; data.len() + MAX_OVERHEAD + SMALL];
    let (update, refusal) = (
        peer.records.pending.key_update,
        peer.records.pending.no_renegotiation,
    );
    let Ok(length) = peer.records.seal(data, &mut out) else {
        return false;
    };
    let Ok(seen) = peer.client.back(&out[..length]) else {
        return false;
    };
    let updates = seen.iter().filter(|(kind, _)| *kind == content::HANDSHAKE);
    let refusals = seen.iter().filter(|(kind, _)| *kind == content::ALERT);
    updates.count() == usize::from(update)
        && refusals.count() == usize::from(refusal)
        && seen
            .last()
            .is_some_and(|last| *last == (content::DATA, data.to_vec()))
}
