//! A client that seals whatever it is told to, for properties and fuzzing.

use rustls::{ConnectionTrafficSecrets, Error, ProtocolVersion, crypto::aws_lc_rs::cipher_suite};

use super::{Cipher, Content, Records, Rekey, SMALL, Violation, cipher::MAX_OVERHEAD, content};

/// The n-th keys of one direction.
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

/// Keys after keys, of no secrecy whatever.
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

/// The other end, and what it knows.
pub(crate) struct Peer {
    pub(crate) records: Records<Counted>,
    version: ProtocolVersion,
    chacha: bool,
    /// What this end seals with, and the record layer opens with.
    there: (Cipher, u64, u8),
    back: (Cipher, u64, u8),
}

impl Peer {
    pub(crate) fn new(tls13: bool, chacha: bool) -> Result<Self, Violation> {
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
        Ok(Self {
            records: Records::new(
                suite,
                keys,
                (0, &receiving),
                (0, &sending),
                leastconn::net::now,
            )?,
            version,
            chacha,
            there: (Cipher::new(version, &receiving)?, 0, 0),
            back: (Cipher::new(version, &sending)?, 0, 0),
        })
    }

    /// A record of any type; `plaintext` may have padding and a type of its own
    /// behind it, if `kind` is 0 and the version 1.3.
    pub(crate) fn seal(&mut self, kind: u8, plaintext: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut record = vec![0; plaintext.len() + MAX_OVERHEAD];
        let (cipher, sequence, _) = &mut self.there;
        let length = cipher.seal(*sequence, kind, plaintext, &mut record)?;
        *sequence += 1;
        record.truncate(length);
        Ok(record)
    }

    /// New keys for what this end sends, as after a KeyUpdate.
    pub(crate) fn rekey(&mut self) -> Result<(), Violation> {
        let next = self.there.2.wrapping_add(1);
        let secrets = secrets(self.chacha, RECEIVING, next);
        self.there = (Cipher::new(self.version, &secrets)?, 0, next);
        Ok(())
    }

    /// Gives whole records to the record layer.
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

    /// Opens records that came back, and follows key updates.
    pub(crate) fn back(&mut self, mut bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, Violation> {
        let mut seen = Vec::new();
        while !bytes.is_empty() {
            let length = self.records.length(bytes)?.ok_or(Violation::BadRecord)?;
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
        Ok(seen)
    }
}

/// Lets a client do anything that `data` says: records of any type and content,
/// well sealed; key updates; and raw bytes. Nothing panics, data arrives as it
/// was sent, and after a violation an alert can be sealed.
pub(crate) fn drive(data: &[u8]) {
    let Some((&setting, mut data)) = data.split_first() else {
        return;
    };
    let Ok(mut peer) = Peer::new(setting & 1 > 0, setting & 2 > 0) else {
        return;
    };
    while let [op, length, rest @ ..] = data {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        data = rest;
        let raw = op & 0x80 > 0;
        let kind = op & 0x1f;
        let record = if raw {
            body.to_vec()
        } else {
            match peer.seal(kind, body) {
                Ok(record) => record,
                Err(_) => return,
            }
        };
        let given = peer.give(&record);
        match given {
            Ok((Content::Data(_), out)) => {
                assert!(!raw, "a record that nobody sealed was opened");
                assert!(kind == content::DATA && out == body || kind == 0);
            }
            Ok((Content::Nothing, _)) => {
                // A key update came to its end if the receiving side's keys are new.
                if setting & 1 > 0 && kind == content::HANDSHAKE && peer.records.received == 0 {
                    let _ = peer.rekey();
                }
                let mut out = [0; SMALL];
                while peer.records.owes() {
                    let paid = peer.records.pay(&mut out).unwrap_or(0);
                    assert!(peer.back(&out[..paid]).is_ok());
                }
            }
            Ok((Content::End, _)) => return,
            Err(why) => {
                let mut out = [0; SMALL];
                let length = peer.records.refuse(why, &mut out).unwrap_or(0);
                let seen = peer.back(&out[..length]).unwrap_or_default();
                assert_eq!(seen.len(), usize::from(why.alert().is_some()));
                return;
            }
        }
    }
}
