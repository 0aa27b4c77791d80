//! TLS records after the handshake, without I/O. Records are opened directly into the reader's
//! buffer, and sealed directly from the writer's buffer. rustls performs the handshake and derives
//! all keys.
//!
//! Sources: RFC 8446, sections 4.6.3, 5 and 6; RFC 5246, section 6; RFC 5288; RFC 7905.
//!
//! Besides application data, a peer may send alerts, KeyUpdates (TLS 1.3) and one
//! renegotiation request (TLS 1.2), which is refused. Any other record ends the connection.
//! Too many records without data also end the connection ([`ControlLimit`]).

mod cipher;
mod control_limit;

use std::{
    io,
    time::{Duration, Instant},
};

use rustls::{
    AlertDescription, ConnectionTrafficSecrets, Error, ProtocolVersion, SupportedCipherSuite,
};

use super::alert;
use cipher::Construction;

pub(super) use control_limit::{ControlLimit, Verdict};

pub(crate) use cipher::{Cipher, HEADER, MAX_CIPHERTEXT, MAX_OVERHEAD, MAX_PLAINTEXT, TAG};

/// Content types.
pub(crate) mod content {
    #[cfg(any(test, fuzzing))]
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const DATA: u8 = 23;
}

/// Type of a handshake message.
pub(crate) const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Buffer size in bytes for `seal_control`, `end` and `refuse`.
pub(crate) const SMALL: usize = 64;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// The record is forged, damaged or out of order.
    #[error("bad record MAC")]
    BadRecord,
    #[error("record too long")]
    Oversized,
    #[error("unexpected record type")]
    Unexpected,
    #[error("unknown kind of key update")]
    IllegalKeyUpdate,
    #[error("malformed key update")]
    MalformedKeyUpdate,
    #[error("malformed alert")]
    IllegalAlert,
    #[error("too many records without data: key updates, warnings or empty records")]
    TooManyControlRecords,
    #[error("the peer sent the alert {}", alert_name(*.0))]
    Alerted(u8),
    /// Only in TLS 1.2: in TLS 1.3 the keys are updated before the limit.
    #[error(
        "key limit: one key may seal 2^24 records, and TLS 1.2 cannot renew keys while connected"
    )]
    Exhausted,
    #[error("internal error: keys or buffers do not match")]
    Keys,
}

impl From<Violation> for io::Error {
    fn from(why: Violation) -> Self {
        Self::new(io::ErrorKind::InvalidData, why)
    }
}

impl Violation {
    /// The alert that is sent to the peer, if any.
    pub(crate) const fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::BadRecord => Some(AlertDescription::BadRecordMac),
            Self::Oversized => Some(AlertDescription::RecordOverflow),
            Self::Unexpected | Self::TooManyControlRecords => {
                Some(AlertDescription::UnexpectedMessage)
            }
            Self::IllegalKeyUpdate => Some(AlertDescription::IllegalParameter),
            Self::IllegalAlert | Self::MalformedKeyUpdate => Some(AlertDescription::DecodeError),
            Self::Keys => Some(AlertDescription::InternalError),
            Self::Alerted(_) | Self::Exhausted => None,
        }
    }
}

fn alert_name(code: u8) -> String {
    alert::name(AlertDescription::from(code))
}

/// Returns the payload length of a record that was received after the handshake. Performs all
/// checks that are possible with the header alone: RFC 8446, 5.1 and 5.2; RFC 5246, 6.2.
pub(super) fn payload_length(header: [u8; HEADER], is_tls13: bool) -> Result<usize, Violation> {
    let [kind, major, _, high, low] = header;
    let first = if is_tls13 {
        content::DATA
    } else {
        content::ALERT
    };
    if !(first..=content::DATA).contains(&kind) || major != 3 {
        return Err(Violation::Unexpected);
    }
    let payload = usize::from(u16::from_be_bytes([high, low]));
    if payload > cipher::max_ciphertext(is_tls13) {
        return Err(Violation::Oversized);
    }
    if payload < TAG {
        return Err(Violation::BadRecord);
    }
    Ok(payload)
}

/// Source of new keys for key updates (TLS 1.3).
pub(crate) trait Rekey {
    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
}

/// The content of an opened record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The record has data: this many bytes of plaintext at the beginning of the buffer.
    Data(usize),
    /// The record has no data.
    Nothing,
    /// The record has no data, and the peer has sent many such records. Wait for this time
    /// before the next read.
    Pause(Duration),
    /// The peer sent `close_notify`.
    End,
}

/// Maximum number of empty records and warnings in a row. The limit must be lower than rustls' own
/// limit: rustls refuses the 33rd empty record without an alert. rustls also counts a few records
/// that [`Buffered`](super::buffered::Buffered) inserts.
pub(super) const EMPTY_IN_A_ROW: u8 = 30;

/// Control records that must be sent before anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PendingControl {
    key_update: bool,
    no_renegotiation: bool,
}

/// Both directions of an established connection.
pub(crate) struct Records<K> {
    /// The source of new keys. `None` for TLS 1.2, which has no key updates.
    keys: Option<K>,
    receiving: Cipher,
    received: u64,
    sending: Cipher,
    sent: u64,
    /// Number of records that one key may seal: RFC 8446, 5.5.
    limit: u64,
    /// The beginning of a KeyUpdate that arrives in several records.
    message: [u8; 5],
    message_len: u8,
    renegotiation_refused: bool,
    pending: PendingControl,
    /// Number of empty records and warnings since the last record of another kind.
    empty: u8,
    limit_of_control: ControlLimit,
    clock: fn() -> Instant,
}

impl<K: Rekey> Records<K> {
    /// `receiving` and `sending` contain the secrets of each direction, and the number of
    /// handshake records that already used these secrets.
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
            // Sequence numbers must not wrap, even if the suite allows more records.
            limit: common.confidentiality_limit.min(1 << 48),
            message: [0; 5],
            message_len: 0,
            renegotiation_refused: false,
            pending: PendingControl::default(),
            empty: 0,
            limit_of_control: ControlLimit::new(),
            clock,
        })
    }

    fn is_tls13(&self) -> bool {
        self.receiving.construction() == Construction::Tls13
    }

    /// The length of the first record in `bytes`, or `None` if its header is incomplete.
    pub(crate) fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Violation> {
        let Some(&header) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let payload = payload_length(header, self.is_tls13())?;
        Ok(Some(HEADER + payload))
    }

    /// The size of the buffer in bytes that [`Self::open`] needs for a record of `length`
    /// bytes.
    pub(crate) const fn room(&self, length: usize) -> usize {
        self.receiving.room(length)
    }

    /// Opens `record`, which must be the next complete record, into `out`. Any part of `out`
    /// may be overwritten.
    pub(crate) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<Content, Violation> {
        let (kind, length) = self.receiving.open(self.received, record, out)?;
        self.received = self.received.checked_add(1).ok_or(Violation::Exhausted)?;
        let plaintext = out.get(..length).ok_or(Violation::BadRecord)?;
        if kind == content::DATA && length > 0 && self.message_len == 0 {
            self.empty = 0;
            return Ok(Content::Data(length));
        }
        // RFC 8446, 5.1: "Handshake messages MUST NOT be interleaved with other record
        // types."
        if self.message_len > 0 && kind != content::HANDSHAKE {
            return Err(Violation::Unexpected);
        }
        let content = match kind {
            content::DATA => Content::Nothing,
            content::ALERT => self.alerted(plaintext)?,
            content::HANDSHAKE if self.is_tls13() => self.handshake13(plaintext)?,
            content::HANDSHAKE => self.handshake12(plaintext)?,
            _ => return Err(Violation::Unexpected),
        };
        if content == Content::End {
            return Ok(content);
        }
        if kind == content::HANDSHAKE {
            self.empty = 0;
        } else if self.empty == EMPTY_IN_A_ROW {
            return Err(Violation::TooManyControlRecords);
        } else {
            self.empty += 1;
        }
        match self.limit_of_control.take((self.clock)()) {
            Verdict::Process => Ok(content),
            Verdict::Delay(delay) => Ok(Content::Pause(delay)),
            Verdict::Refuse => Err(Violation::TooManyControlRecords),
        }
    }

    fn alerted(&self, alert: &[u8]) -> Result<Content, Violation> {
        const CLOSE_NOTIFY: u8 = 0;
        const USER_CANCELED: u8 = 90;
        match *alert {
            [WARNING | FATAL, CLOSE_NOTIFY] => Ok(Content::End),
            [WARNING, USER_CANCELED] => Ok(Content::Nothing),
            // TLS 1.3 has no other warnings: it treats every other alert as an error.
            [WARNING, _] if !self.is_tls13() => Ok(Content::Nothing),
            [WARNING | FATAL, description] => Err(Violation::Alerted(description)),
            // RFC 8446, 5.4, forbids zero-length alerts.
            [] => Err(Violation::Unexpected),
            _ => Err(Violation::IllegalAlert),
        }
    }

    /// Processes a KeyUpdate, which may be split into several records.
    fn handshake13(&mut self, plaintext: &[u8]) -> Result<Content, Violation> {
        // RFC 8446, 5.1, forbids empty fragments.
        if plaintext.is_empty() {
            return Err(Violation::Unexpected);
        }
        let had = usize::from(self.message_len);
        let fits = plaintext.len().min(self.message.len() - had);
        let length = had + fits;
        self.message[had..length].copy_from_slice(&plaintext[..fits]);
        let expected = [KEY_UPDATE, 0, 0, 1];
        let known = length.min(expected.len());
        if self.message[0] != KEY_UPDATE {
            return Err(Violation::Unexpected);
        }
        if self.message[..known] != expected[..known] {
            return Err(Violation::MalformedKeyUpdate);
        }
        if fits < plaintext.len() {
            // A KeyUpdate must end its record, because any data after it is sealed with new keys.
            return Err(Violation::Unexpected);
        }
        if length < self.message.len() {
            // The length is at most 4.
            self.message_len = length as u8;
            return Ok(Content::Nothing);
        }
        self.message_len = 0;
        match self.message[4] {
            0 => {}
            // One KeyUpdate answers all requests received until it is sent.
            1 => self.pending.key_update = true,
            _ => return Err(Violation::IllegalKeyUpdate),
        }
        let keys = self.keys.as_mut().ok_or(Violation::Keys)?;
        let secrets = keys.next_receiving().map_err(|_| Violation::Keys)?;
        self.receiving = Cipher::new(ProtocolVersion::TLSv1_3, &secrets)?;
        self.received = 0;
        Ok(Content::Nothing)
    }

    /// Refuses the first renegotiation request with a warning. A second request is an error,
    /// as in rustls. A request must be in a single record, because no implementation
    /// fragments it.
    fn handshake12(&mut self, plaintext: &[u8]) -> Result<Content, Violation> {
        match *plaintext {
            [CLIENT_HELLO, a, b, c, ref body @ ..]
                if u32::from_be_bytes([0, a, b, c]) as usize == body.len()
                    && !self.renegotiation_refused =>
            {
                self.renegotiation_refused = true;
                self.pending.no_renegotiation = true;
                Ok(Content::Nothing)
            }
            _ => Err(Violation::Unexpected),
        }
    }

    /// Whether [`Self::seal_control`] has something to send.
    pub(crate) const fn has_pending_control(&self) -> bool {
        self.pending.key_update || self.pending.no_renegotiation
    }

    /// Seals a pending answer into `out`, which needs at least [`SMALL`] bytes.
    pub(crate) fn seal_control(&mut self, out: &mut [u8]) -> Result<usize, Violation> {
        if std::mem::take(&mut self.pending.no_renegotiation) {
            return self.alert(AlertDescription::NoRenegotiation, WARNING, out);
        }
        if self.pending.key_update {
            return self.update_sending(out);
        }
        Ok(0)
    }

    /// Seals a KeyUpdate and switches to new sending keys.
    fn update_sending(&mut self, out: &mut [u8]) -> Result<usize, Violation> {
        self.pending.key_update = false;
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

    /// Seals at most [`MAX_PLAINTEXT`] bytes into `out`. `out` needs [`MAX_OVERHEAD`] bytes
    /// more than `plaintext`, and [`SMALL`] bytes for a KeyUpdate that may precede the
    /// data.
    pub(crate) fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, Violation> {
        let mut length = 0;
        while self.has_pending_control() {
            length += self.seal_control(out.get_mut(length..).ok_or(Violation::Keys)?)?;
        }
        // Keep the last sequence number for the KeyUpdate itself.
        if self.sent + 1 >= self.limit {
            length += self.update_sending(out.get_mut(length..).ok_or(Violation::Keys)?)?;
        }
        let out = out.get_mut(length..).ok_or(Violation::Keys)?;
        length += self.seal_next(content::DATA, plaintext, out)?;
        self.limit_of_control.sent(plaintext.len());
        Ok(length)
    }

    /// Seals one record. Increments the sequence number first, so that no sequence number
    /// is used twice, even after an error.
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

    pub(crate) fn end(&mut self, out: &mut [u8]) -> Result<usize, Violation> {
        self.alert(AlertDescription::CloseNotify, WARNING, out)
    }

    /// Seals the alert for a violation. Seals nothing if the violation has no alert.
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
