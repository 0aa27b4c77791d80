//! TLS records after the handshake, without I/O: opened from what was received
//! straight into the reader's buffer, sealed from the writer's straight into
//! what is sent. rustls does the handshake and keeps the traffic secrets; this
//! uses the keys that it derives.
//!
//! RFC 8446 sections 4.6.3, 5 and 6; RFC 5246 section 6; RFC 5288; RFC 7905.
//! What is not application data is a KeyUpdate (TLS 1.3), a renegotiation
//! request, refused once (TLS 1.2), or an alert. Everything else ends the
//! connection, and so does too much of these ([`Patience`]).

mod cipher;
mod patience;

use std::time::Instant;

use rustls::{
    AlertDescription, ConnectionTrafficSecrets, Error, ProtocolVersion, SupportedCipherSuite,
};

use cipher::{Cipher, Construction};
pub(super) use patience::Patience;

pub(crate) use cipher::{HEADER, MAX_OVERHEAD, MAX_PLAINTEXT};

/// Content types.
pub(crate) mod content {
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const DATA: u8 = 23;
}

const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;

/// Alert levels.
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What `pay` and `alert` may need.
pub(crate) const SMALL: usize = 64;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// Forged, damaged, or out of order.
    #[error("a record is not authentic")]
    BadRecord,
    #[error("a record is too long")]
    Oversized,
    #[error("a record of a type that is not expected here")]
    Unexpected,
    #[error("a key update that asks for nothing known")]
    IllegalKeyUpdate,
    #[error("an alert that does not parse")]
    IllegalAlert,
    #[error("too many records without data")]
    Impatient,
    #[error("the client ended the connection by alert {0}")]
    Alerted(u8),
    #[error("the keys have been used as often as they may")]
    Exhausted,
    #[error("keys or buffers are not what they should be")]
    Keys,
}

impl Violation {
    /// What to tell the client, if anything.
    pub(crate) const fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::BadRecord => Some(AlertDescription::BadRecordMac),
            Self::Oversized => Some(AlertDescription::RecordOverflow),
            Self::Unexpected | Self::Impatient => Some(AlertDescription::UnexpectedMessage),
            Self::IllegalKeyUpdate => Some(AlertDescription::IllegalParameter),
            Self::IllegalAlert => Some(AlertDescription::DecodeError),
            Self::Keys => Some(AlertDescription::InternalError),
            Self::Alerted(_) | Self::Exhausted => None,
        }
    }
}

/// Where the next keys come from, in TLS 1.3.
pub(crate) trait Rekey {
    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
}

/// What a record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// So many bytes of plaintext, at the front of the buffer.
    Data(usize),
    /// Nothing for the reader.
    Nothing,
    /// The orderly end: nothing comes after it.
    End,
}

/// What has to be sent before anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owed {
    key_update: bool,
    no_renegotiation: bool,
}

/// Both directions of an established connection.
pub(crate) struct Records<K> {
    /// `None` for TLS 1.2, whose keys do not change.
    keys: Option<K>,
    receiving: Cipher,
    received: u64,
    sending: Cipher,
    sent: u64,
    /// Records that one key may seal: RFC 8446, 5.5.
    limit: u64,
    /// The front of a KeyUpdate that comes in pieces.
    message: [u8; 5],
    message_len: u8,
    renegotiation_refused: bool,
    owed: Owed,
    patience: Patience,
    clock: fn() -> Instant,
}

impl<K: Rekey> Records<K> {
    /// `receiving` and `sending` with the number of records that the handshake
    /// has used these keys for.
    pub(crate) fn new(
        suite: SupportedCipherSuite,
        keys: K,
        receiving: (u64, &ConnectionTrafficSecrets),
        sending: (u64, &ConnectionTrafficSecrets),
        clock: fn() -> Instant,
    ) -> Result<Self, Violation> {
        let (version, common) = match suite {
            SupportedCipherSuite::Tls13(suite) => (ProtocolVersion::TLSv1_3, &suite.common),
            SupportedCipherSuite::Tls12(suite) => (ProtocolVersion::TLSv1_2, &suite.common),
        };
        Ok(Self {
            keys: (version == ProtocolVersion::TLSv1_3).then_some(keys),
            receiving: Cipher::new(version, receiving.1)?,
            received: receiving.0,
            sending: Cipher::new(version, sending.1)?,
            sent: sending.0,
            // Far before the sequence numbers end, whatever the suite allows.
            limit: common.confidentiality_limit.min(1 << 48),
            message: [0; 5],
            message_len: 0,
            renegotiation_refused: false,
            owed: Owed::default(),
            patience: Patience::new(),
            clock,
        })
    }

    fn is_tls13(&self) -> bool {
        self.receiving.construction() == Construction::Tls13
    }

    /// The length of the record that `bytes` begin with, once its header is
    /// there.
    pub(crate) fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Violation> {
        let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        if !(content::CHANGE_CIPHER_SPEC..=content::DATA).contains(&kind) || major != 3 {
            return Err(Violation::Unexpected);
        }
        let payload = usize::from(u16::from_be_bytes([high, low]));
        if payload > self.receiving.max_ciphertext() {
            return Err(Violation::Oversized);
        }
        Ok(Some(HEADER + payload))
    }

    /// What [`Self::open`] needs for a record of `length` bytes.
    pub(crate) const fn room(&self, length: usize) -> usize {
        self.receiving.room(length)
    }

    /// Opens the next record, given whole, into `out`, of which anything may be
    /// overwritten.
    pub(crate) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<Content, Violation> {
        let (kind, length) = self.receiving.open(self.received, record, out)?;
        self.received = self.received.checked_add(1).ok_or(Violation::Exhausted)?;
        let plaintext = out.get(..length).ok_or(Violation::BadRecord)?;
        if kind == content::DATA && length > 0 && self.message_len == 0 {
            return Ok(Content::Data(length));
        }
        // "Handshake messages MUST NOT be interleaved with other record types."
        if self.message_len > 0 && kind != content::HANDSHAKE {
            return Err(Violation::Unexpected);
        }
        if !self.patience.take((self.clock)()) {
            return Err(Violation::Impatient);
        }
        match kind {
            content::DATA => Ok(Content::Nothing),
            content::ALERT => self.alerted(plaintext),
            content::HANDSHAKE if self.is_tls13() => self.handshake13(plaintext),
            content::HANDSHAKE => self.handshake12(plaintext),
            _ => Err(Violation::Unexpected),
        }
    }

    fn alerted(&self, alert: &[u8]) -> Result<Content, Violation> {
        const CLOSE_NOTIFY: u8 = 0;
        const USER_CANCELED: u8 = 90;
        match *alert {
            [WARNING | FATAL, CLOSE_NOTIFY] => Ok(Content::End),
            [WARNING, USER_CANCELED] => Ok(Content::Nothing),
            // TLS 1.3 has no other warnings: there it is an error all the same.
            [WARNING, _] if !self.is_tls13() => Ok(Content::Nothing),
            [WARNING | FATAL, description] => Err(Violation::Alerted(description)),
            _ => Err(Violation::IllegalAlert),
        }
    }

    /// A KeyUpdate, whole or in pieces.
    fn handshake13(&mut self, plaintext: &[u8]) -> Result<Content, Violation> {
        // Pieces without a byte are forbidden: RFC 8446, 5.1.
        if plaintext.is_empty() {
            return Err(Violation::Unexpected);
        }
        let had = usize::from(self.message_len);
        let Some(room) = self.message.get_mut(had..had + plaintext.len()) else {
            // Another message, or something behind the KeyUpdate, under the old
            // keys: also forbidden.
            return Err(Violation::Unexpected);
        };
        room.copy_from_slice(plaintext);
        let length = had + plaintext.len();
        let expected = [KEY_UPDATE, 0, 0, 1];
        let known = length.min(expected.len());
        if self.message[..known] != expected[..known] {
            return Err(Violation::Unexpected);
        }
        if length < self.message.len() {
            // At most four.
            self.message_len = length as u8;
            return Ok(Content::Nothing);
        }
        self.message_len = 0;
        match self.message[4] {
            0 => {}
            // One answer does for any number that came before it was sent.
            1 => self.owed.key_update = true,
            _ => return Err(Violation::IllegalKeyUpdate),
        }
        let keys = self.keys.as_mut().ok_or(Violation::Keys)?;
        let secrets = keys.next_receiving().map_err(|_| Violation::Keys)?;
        self.receiving = Cipher::new(ProtocolVersion::TLSv1_3, &secrets)?;
        self.received = 0;
        Ok(Content::Nothing)
    }

    /// A request to renegotiate is refused once; a second one is too much, as
    /// rustls has it. Only whole in one record: nobody sends it otherwise.
    fn handshake12(&mut self, plaintext: &[u8]) -> Result<Content, Violation> {
        match *plaintext {
            [CLIENT_HELLO, a, b, c, ref body @ ..]
                if u32::from_be_bytes([0, a, b, c]) as usize == body.len()
                    && !self.renegotiation_refused =>
            {
                self.renegotiation_refused = true;
                self.owed.no_renegotiation = true;
                Ok(Content::Nothing)
            }
            _ => Err(Violation::Unexpected),
        }
    }

    /// Whether [`Self::pay`] has something.
    pub(crate) const fn owes(&self) -> bool {
        self.owed.key_update || self.owed.no_renegotiation
    }

    /// Seals what is owed, into `out` of at least [`SMALL`] bytes.
    pub(crate) fn pay(&mut self, out: &mut [u8]) -> Result<usize, Violation> {
        if std::mem::take(&mut self.owed.no_renegotiation) {
            return self.alert(AlertDescription::NoRenegotiation, WARNING, out);
        }
        if self.owed.key_update {
            return self.update_sending(out);
        }
        Ok(0)
    }

    /// Tells the client that we send under new keys from here on.
    fn update_sending(&mut self, out: &mut [u8]) -> Result<usize, Violation> {
        self.owed.key_update = false;
        if self.keys.is_none() {
            return Err(Violation::Exhausted);
        }
        let message = [KEY_UPDATE, 0, 0, 1, 0];
        let length = self.seal_next(content::HANDSHAKE, &message, out)?;
        let keys = self.keys.as_mut().ok_or(Violation::Exhausted)?;
        let secrets = keys.next_sending().map_err(|_| Violation::Keys)?;
        self.sending = Cipher::new(ProtocolVersion::TLSv1_3, &secrets)?;
        self.sent = 0;
        Ok(length)
    }

    /// Seals at most [`MAX_PLAINTEXT`] bytes into `out`, which has room for them,
    /// [`MAX_OVERHEAD`], and [`SMALL`] for what must go before.
    pub(crate) fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, Violation> {
        let mut length = 0;
        while self.owes() {
            length += self.pay(out.get_mut(length..).ok_or(Violation::Keys)?)?;
        }
        // The update itself takes the last number.
        if self.sent + 1 >= self.limit {
            length += self.update_sending(out.get_mut(length..).ok_or(Violation::Keys)?)?;
        }
        let out = out.get_mut(length..).ok_or(Violation::Keys)?;
        length += self.seal_next(content::DATA, plaintext, out)?;
        Ok(length)
    }

    /// The number is used up first: whatever fails, none is used twice.
    fn seal_next(
        &mut self,
        kind: u8,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Violation> {
        let number = self.sent;
        self.sent = number.checked_add(1).ok_or(Violation::Exhausted)?;
        self.sending.seal(number, kind, plaintext, out)
    }

    /// Seals the orderly end.
    pub(crate) fn end(&mut self, out: &mut [u8]) -> Result<usize, Violation> {
        self.alert(AlertDescription::CloseNotify, WARNING, out)
    }

    /// Seals the alert that a violation calls for, if any.
    pub(crate) fn refuse(&mut self, why: Violation, out: &mut [u8]) -> Result<usize, Violation> {
        match why.alert() {
            Some(description) => self.alert(description, FATAL, out),
            None => Ok(0),
        }
    }

    fn alert(
        &mut self,
        description: AlertDescription,
        level: u8,
        out: &mut [u8],
    ) -> Result<usize, Violation> {
        let alert = [level, u8::from(description)];
        self.seal_next(content::ALERT, &alert, out)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod drive;

#[cfg(test)]
mod tests;
