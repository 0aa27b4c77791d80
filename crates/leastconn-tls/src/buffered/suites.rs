//! rustls' cipher suites, with decrypters that also accept *requests* from [`Buffered`].
//!
//! rustls has no option to change the following behaviour:
//!
//! - It answers an invalid record header with `decode_error`, whatever alert the RFC
//!   requires.
//! - It sends no alert for some violations.
//! - It refuses the 33rd key update between two records with data, although a JDK at its
//!   key limit sends hundreds.
//!
//! A cipher suite sees every record, and the error that it returns selects the alert. Therefore
//! [`Buffered`] passes requests to the suite's decrypter.
//!
//! A request is a record whose payload is shorter than an authentication tag. A peer cannot
//! send a request: [`Buffered`] refuses such headers before rustls sees them.
//!
//! [`Buffered`]: super::Buffered

use std::sync::LazyLock;

use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, PeerMisbehaved, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        aws_lc_rs::ALL_CIPHER_SUITES,
        cipher::{
            AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape,
            MessageDecrypter, MessageEncrypter, Tls12AeadAlgorithm, Tls13AeadAlgorithm,
            UnsupportedOperationError,
        },
    },
};

use super::super::record::{EMPTY_IN_A_ROW, HEADER, TAG, Violation, content};

/// An error that rustls answers with the alert `unexpected_message`. After the handshake,
/// rustls itself never returns this error.
pub(super) const UNEXPECTED: Error =
    Error::PeerMisbehaved(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec);

/// A request from [`Buffered`](super::Buffered) to the decrypter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Return an empty record, which resets rustls' key update counter. Within a handshake message,
    /// the request has no effect.
    ResetKeyUpdates = 0,
    UnexpectedMessage = 1,
    RecordOverflow = 2,
    BadRecordMac = 3,
}

impl Request {
    pub(super) const fn for_violation(why: Violation) -> Self {
        match why {
            Violation::Oversized => Self::RecordOverflow,
            Violation::BadRecord => Self::BadRecordMac,
            _ => Self::UnexpectedMessage,
        }
    }

    pub(super) const fn record(self) -> [u8; HEADER + 1] {
        [content::DATA, 3, 3, 0, 1, self as u8]
    }

    /// The error that a request causes. `None` for [`Self::ResetKeyUpdates`].
    fn error(code: u8) -> Option<Error> {
        match code {
            0 => None,
            1 => Some(UNEXPECTED),
            2 => Some(Error::PeerSentOversizedRecord),
            _ => Some(Error::DecryptError),
        }
    }
}

/// Replaces each suite with one whose decrypters accept requests.
pub(in super::super) fn wrap(suites: &mut [SupportedCipherSuite]) {
    for suite in suites {
        let name = suite.suite();
        let same13 = |wrapped: &&Tls13CipherSuite| wrapped.common.suite == name;
        let same12 = |wrapped: &&Tls12CipherSuite| wrapped.common.suite == name;
        if let Some(wrapped) = SUITES13.iter().find(same13) {
            *suite = SupportedCipherSuite::Tls13(wrapped);
        } else if let Some(wrapped) = SUITES12.iter().find(same12) {
            *suite = SupportedCipherSuite::Tls12(wrapped);
        }
    }
}

static AEADS13: LazyLock<Vec<(&'static Tls13CipherSuite, Aead13)>> = LazyLock::new(|| {
    let suites = ALL_CIPHER_SUITES.iter();
    suites
        .filter_map(|suite| suite.tls13())
        .map(|suite| (suite, Aead13(suite.aead_alg)))
        .collect()
});

static SUITES13: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let wrapped = AEADS13.iter().map(|(suite, aead_alg)| Tls13CipherSuite {
        common: common(&suite.common),
        hkdf_provider: suite.hkdf_provider,
        aead_alg,
        quic: None,
    });
    wrapped.collect()
});

static AEADS12: LazyLock<Vec<(&'static Tls12CipherSuite, Aead12)>> = LazyLock::new(|| {
    let suites = ALL_CIPHER_SUITES.iter();
    suites
        .filter_map(|suite| match suite {
            SupportedCipherSuite::Tls12(suite) => Some((*suite, Aead12(suite.aead_alg))),
            SupportedCipherSuite::Tls13(_) => None,
        })
        .collect()
});

static SUITES12: LazyLock<Vec<Tls12CipherSuite>> = LazyLock::new(|| {
    let wrapped = AEADS12.iter().map(|(suite, aead_alg)| Tls12CipherSuite {
        common: common(&suite.common),
        prf_provider: suite.prf_provider,
        kx: suite.kx,
        sign: suite.sign,
        aead_alg,
    });
    wrapped.collect()
});

fn common(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: common.confidentiality_limit,
    }
}

struct Aead13(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for Aead13 {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Decrypter::boxed(self.0.decrypter(key, iv), true)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Aead12(&'static dyn Tls12AeadAlgorithm);

impl Tls12AeadAlgorithm for Aead12 {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv, extra)
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Decrypter::boxed(self.0.decrypter(key, iv), false)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.0.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

/// Decrypter for one direction of a connection.
struct Decrypter {
    inner: Box<dyn MessageDecrypter>,
    is_tls13: bool,
    /// Number of requests received under these keys. rustls increments its sequence number for
    /// requests, too.
    requests: u64,
    /// Number of empty records and warnings since the last record of another kind.
    empty: u8,
    /// Number of handshake records in TLS 1.2. The first record is Finished. Further records
    /// request renegotiation.
    handshake_records: u8,
    message: HandshakeMessage,
}

/// Finds the ends of handshake messages in the records that carry them.
#[derive(Default)]
struct HandshakeMessage {
    header: [u8; 4],
    have: usize,
    left: usize,
}

impl HandshakeMessage {
    const fn is_complete(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    fn follow(&mut self, mut fragment: &[u8]) {
        while let [first, rest @ ..] = fragment {
            if self.left > 0 {
                let count = self.left.min(fragment.len());
                self.left -= count;
                fragment = &fragment[count..];
                continue;
            }
            self.header[self.have] = *first;
            self.have += 1;
            fragment = rest;
            if let [_, a, b, c] = self.header
                && self.have == 4
            {
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
            }
        }
    }
}

impl Decrypter {
    fn boxed(inner: Box<dyn MessageDecrypter>, is_tls13: bool) -> Box<dyn MessageDecrypter> {
        Box::new(Self {
            inner,
            is_tls13,
            requests: 0,
            empty: 0,
            handshake_records: 0,
            message: HandshakeMessage::default(),
        })
    }

    /// Whether rustls ignores this record. rustls refuses too many warning alerts, but without
    /// sending an alert. Therefore such records are counted here.
    fn is_idle(&self, message: &InboundPlainMessage<'_>) -> bool {
        const WARNING: u8 = 1;
        const CLOSE_NOTIFY: u8 = 0;
        const USER_CANCELED: u8 = 90;
        match (message.typ, message.payload) {
            (ContentType::ApplicationData, []) => true,
            (ContentType::Alert, [WARNING, USER_CANCELED]) => true,
            (ContentType::Alert, [WARNING, CLOSE_NOTIFY]) => false,
            (ContentType::Alert, [WARNING, _]) => !self.is_tls13,
            _ => false,
        }
    }
}

impl MessageDecrypter for Decrypter {
    fn decrypt<'a>(
        &mut self,
        mut record: InboundOpaqueMessage<'a>,
        number: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        if record.payload.len() < TAG {
            if let Some(error) = record.payload.first().copied().and_then(Request::error) {
                return Err(error);
            }
            self.requests += 1;
            record.payload.truncate(0);
            if !self.message.is_complete() {
                record.typ = ContentType::Handshake;
            }
            return Ok(record.into_plain_message());
        }
        let opened = self.inner.decrypt(record, number - self.requests);
        let mut message = opened.map_err(|error| match error {
            // The record contains only padding. rustls sends no alert for this violation.
            Error::PeerMisbehaved(PeerMisbehaved::IllegalTlsInnerPlaintext) => UNEXPECTED,
            other => other,
        })?;
        if !self.message.is_complete() && message.typ != ContentType::Handshake {
            // rustls refuses this record too, but sends no alert.
            return Err(UNEXPECTED);
        }
        if self.is_idle(&message) {
            if self.empty == EMPTY_IN_A_ROW {
                return Err(UNEXPECTED);
            }
            self.empty += 1;
            message.typ = ContentType::ApplicationData;
            // rustls expects the payload to be a slice of the buffer.
            message.payload = &message.payload[..0];
            return Ok(message);
        }
        self.empty = 0;
        if message.typ == ContentType::Handshake {
            // rustls refuses a second request to renegotiate, but sends no alert.
            if !self.is_tls13 && self.handshake_records == 2 {
                return Err(UNEXPECTED);
            }
            self.handshake_records = self.handshake_records.saturating_add(1);
            self.message.follow(message.payload);
        }
        match message.typ {
            ContentType::ApplicationData => Ok(message),
            // RFC 8446, 5.4, requires that a zero-length record of these types ends the
            // connection with the alert `unexpected_message`.
            ContentType::Handshake | ContentType::Alert if !message.payload.is_empty() => {
                Ok(message)
            }
            _ => Err(UNEXPECTED),
        }
    }
}
