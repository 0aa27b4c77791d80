//! The keys of one direction. Records are sealed and opened from one buffer into another,
//! without further copies.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

use super::{Violation, content};

/// Length of a record header: type, version and length.
pub(crate) const HEADER: usize = 5;
/// Tag length of all cipher suites.
pub(crate) const TAG: usize = 16;
/// Length of the explicit nonce of AES-GCM in TLS 1.2.
const EXPLICIT: usize = 8;
/// Maximum length of a record's plaintext.
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;
/// Maximum length of a record's ciphertext in any version.
pub(crate) const MAX_CIPHERTEXT: usize = max_ciphertext(false);
/// Maximum overhead of a record that this side sends.
pub(crate) const MAX_OVERHEAD: usize = HEADER + EXPLICIT + TAG;

const VERSION: [u8; 2] = [3, 3];

/// How the nonce and the additional data of a record are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Construction {
    /// RFC 8446, 5.2: inner content type, implicit nonce.
    Tls13,
    /// RFC 5288: partly explicit nonce.
    Tls12Gcm,
    /// RFC 7905: implicit nonce.
    Tls12ChaCha,
}

pub(crate) struct Cipher {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    construction: Construction,
}

impl Cipher {
    pub(crate) fn new(
        version: ProtocolVersion,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<Self, Violation> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Violation::Keys),
        };
        let construction = match version {
            ProtocolVersion::TLSv1_3 => Construction::Tls13,
            ProtocolVersion::TLSv1_2 if std::ptr::eq(algorithm, &CHACHA20_POLY1305) => {
                Construction::Tls12ChaCha
            }
            ProtocolVersion::TLSv1_2 => Construction::Tls12Gcm,
            _ => return Err(Violation::Keys),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Violation::Keys)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().map_err(|_| Violation::Keys)?,
            construction,
        })
    }

    pub(crate) const fn construction(&self) -> Construction {
        self.construction
    }

    const fn explicit(&self) -> usize {
        match self.construction {
            Construction::Tls12Gcm => EXPLICIT,
            Construction::Tls13 | Construction::Tls12ChaCha => 0,
        }
    }

    /// Maximum size in bytes of the plaintext in a record of `record` bytes, including padding
    /// and inner content type.
    pub(crate) const fn room(&self, record: usize) -> usize {
        record.saturating_sub(HEADER + self.explicit() + TAG)
    }

    fn nonce(&self, sequence: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= count;
        }
        nonce
    }

    /// Writes `plaintext` as one record to the beginning of `out` and returns its length.
    /// The caller must never use a sequence number twice.
    pub(crate) fn seal(
        &self,
        sequence: u64,
        kind: u8,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Violation> {
        let nonce = self.nonce(sequence);
        let explicit = self.explicit();
        let inner = usize::from(self.construction == Construction::Tls13);
        let outer_kind = if inner == 1 { content::DATA } else { kind };
        let payload = explicit + plaintext.len() + inner + TAG;
        let length = u16::try_from(payload).map_err(|_| Violation::Keys)?;
        let record = out.get_mut(..HEADER + payload).ok_or(Violation::Keys)?;
        let (header, body) = record.split_at_mut(HEADER);
        let header_bytes = header_of(outer_kind, VERSION, length);
        header.copy_from_slice(&header_bytes);
        let (explicit_nonce, body) = body.split_at_mut(explicit);
        explicit_nonce.copy_from_slice(&nonce[NONCE_LEN - explicit..]);
        let (ciphertext, tag) = body.split_at_mut(plaintext.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = if inner == 1 {
            let aad = Aad::from(header_bytes);
            self.key
                .seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, &[kind], tag)
        } else {
            let aad = Aad::from(aad12(sequence, kind, VERSION, plaintext.len()));
            self.key
                .seal_out_of_place_scatter(nonce, aad, plaintext, ciphertext, &[], tag)
        };
        sealed.map_err(|_| Violation::Keys)?;
        Ok(HEADER + payload)
    }

    /// Opens a complete record into the beginning of `out`, which needs [`Self::room`]
    /// bytes. Returns the type of the record and the length of its plaintext.
    pub(crate) fn open(
        &self,
        sequence: u64,
        record: &[u8],
        out: &mut [u8],
    ) -> Result<(u8, usize), Violation> {
        let explicit = self.explicit();
        let (header, body) = record
            .split_first_chunk::<HEADER>()
            .ok_or(Violation::BadRecord)?;
        let kind = header[0];
        if body.len() < explicit + TAG {
            return Err(Violation::BadRecord);
        }
        let (explicit_nonce, body) = body.split_at(explicit);
        let (ciphertext, tag) = body.split_at(body.len() - TAG);
        let plaintext = out
            .get_mut(..ciphertext.len())
            .ok_or(Violation::BadRecord)?;
        let opened = match self.construction {
            Construction::Tls13 => {
                if kind != content::DATA {
                    return Err(Violation::Unexpected);
                }
                let nonce = Nonce::assume_unique_for_key(self.nonce(sequence));
                let length = u16::from_be_bytes([header[3], header[4]]);
                // Ignore the received version, as RFC 8446, 5.1, requires.
                let aad = Aad::from(header_of(kind, VERSION, length));
                self.key
                    .open_separate_gather(nonce, aad, ciphertext, tag, plaintext)
            }
            Construction::Tls12Gcm | Construction::Tls12ChaCha => {
                let mut nonce = self.nonce(sequence);
                if explicit > 0 {
                    nonce[..4].copy_from_slice(&self.iv[..4]);
                    nonce[4..].copy_from_slice(explicit_nonce);
                }
                let nonce = Nonce::assume_unique_for_key(nonce);
                let version = [header[1], header[2]];
                let aad = Aad::from(aad12(sequence, kind, version, ciphertext.len()));
                self.key
                    .open_separate_gather(nonce, aad, ciphertext, tag, plaintext)
            }
        };
        opened.map_err(|_| Violation::BadRecord)?;
        if self.construction != Construction::Tls13 {
            if plaintext.len() > MAX_PLAINTEXT {
                return Err(Violation::Oversized);
            }
            return Ok((kind, plaintext.len()));
        }
        // The type is the last byte that is not padding.
        if plaintext.len() > MAX_PLAINTEXT + 1 {
            return Err(Violation::Oversized);
        }
        match plaintext.iter().rposition(|&byte| byte != 0) {
            Some(end) => Ok((plaintext[end], end)),
            None => Err(Violation::Unexpected),
        }
    }
}

/// Maximum length of the ciphertext of a record: RFC 8446, 5.2; RFC 5246, 6.2.3.
pub(crate) const fn max_ciphertext(is_tls13: bool) -> usize {
    MAX_PLAINTEXT + if is_tls13 { 256 } else { 2048 }
}

const fn header_of(kind: u8, version: [u8; 2], length: u16) -> [u8; HEADER] {
    let length = length.to_be_bytes();
    [kind, version[0], version[1], length[0], length[1]]
}

/// The additional data of a TLS 1.2 record: RFC 5246, 6.2.3.3.
fn aad12(sequence: u64, kind: u8, version: [u8; 2], length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8] = kind;
    aad[9..11].copy_from_slice(&version);
    // The length fits: it is at most 2^14 + 2048.
    aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
    aad
}
