//! Reads fields of a ClientHello that rustls does not expose:
//!
//! - the offered versions, for the log of a failed negotiation;
//! - the extended master secret, without which TLS 1.2 sessions must not be resumed.
//!
//! These fields do not decide the handshake: rustls parses the same bytes itself.

use crate::record::{CLIENT_HELLO, content::HANDSHAKE};

const ALPN: u16 = 16;
const EXTENDED_MASTER_SECRET: u16 = 23;
const SUPPORTED_VERSIONS: u16 = 43;

/// Maximum number of application protocols in an error text.
const MAX_PROTOCOLS: usize = 8;

const TLS13: u16 = 0x0304;

/// What a client offers in its ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    versions: Vec<u16>,
    extended_master_secret: bool,
    protocols: Vec<Vec<u8>>,
}

impl Offer {
    /// Parses the ClientHello at the beginning of the records in `bytes`. Returns `None` if
    /// it is malformed.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let message = message(bytes)?;
        let mut hello = Reader(&message);
        let legacy = hello.u16()?;
        hello.take(32)?;
        // Skip session ID, cipher suites and compression methods.
        hello.list8()?;
        hello.list16()?;
        hello.list8()?;
        let mut offer = Self {
            versions: vec![legacy],
            extended_master_secret: false,
            protocols: Vec::new(),
        };
        // A ClientHello of SSL 3 has no extensions.
        let mut extensions = Reader(hello.list16().unwrap_or_default());
        while let Some(kind) = extensions.u16() {
            let mut body = Reader(extensions.list16()?);
            match kind {
                EXTENDED_MASTER_SECRET => offer.extended_master_secret = true,
                ALPN => {
                    let mut names = Reader(body.list16()?);
                    let names = std::iter::from_fn(|| names.list8());
                    offer.protocols = names.take(MAX_PROTOCOLS).map(<[u8]>::to_vec).collect();
                }
                SUPPORTED_VERSIONS => {
                    let mut versions = Reader(body.list8()?);
                    offer.versions = std::iter::from_fn(|| versions.u16()).collect();
                }
                _ => {}
            }
        }
        Some(offer)
    }

    /// The names of the known versions, in the client's order.
    pub(super) fn versions(&self) -> Vec<&'static str> {
        let name = |version: &u16| match *version {
            TLS13 => Some("1.3"),
            0x0303 => Some("1.2"),
            0x0302 => Some("1.1"),
            0x0301 => Some("1.0"),
            0x0300 => Some("ssl3"),
            _ => None,
        };
        self.versions.iter().filter_map(name).collect()
    }

    /// The first [`MAX_PROTOCOLS`] application protocols, for an error text. Long names are
    /// truncated, and bytes that are not UTF-8 are replaced.
    pub(super) fn protocols(&self) -> Vec<String> {
        const LONGEST: usize = 64;
        let cut = |name: &Vec<u8>| {
            let (shown, more) = name.split_at(name.len().min(LONGEST));
            let mark = if more.is_empty() { "" } else { "…" };
            format!("{}{mark}", String::from_utf8_lossy(shown))
        };
        self.protocols.iter().map(cut).collect()
    }

    pub(super) fn has_tls13(&self) -> bool {
        self.versions.contains(&TLS13)
    }

    /// Whether a session of this client may be resumed. In TLS 1.2 this requires the extended
    /// master secret (RFC 7627, section 1). Without this extension, a man in the middle could
    /// resume the session of a client with a certificate.
    pub(super) fn may_resume(&self) -> bool {
        self.extended_master_secret || self.has_tls13()
    }
}

/// Returns the body of the first handshake message, which may span several records.
fn message(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut records = Reader(bytes);
    let mut message = Vec::new();
    loop {
        if let Some(&[kind, a, b, c]) = message.first_chunk::<4>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if kind != CLIENT_HELLO {
                return None;
            }
            if message.len() >= 4 + length {
                return Some(message[4..4 + length].to_vec());
            }
        }
        if records.u8()? != HANDSHAKE {
            return None;
        }
        records.u16()?;
        message.extend_from_slice(records.list16()?);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Reads a field whose length is given in one byte.
    fn list8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// Reads a field whose length is given in two bytes.
    fn list16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};

    use super::*;

    fn hello(versions: &[&'static rustls::SupportedProtocolVersion]) -> Vec<u8> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// Splits the handshake message of `hello`, one record, into records of `size` bytes.
    fn pieces(hello: &[u8], size: usize) -> Vec<u8> {
        let piece = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[22, 3, 1], &length[..], part].concat()
        };
        hello[5..].chunks(size).flat_map(piece).collect()
    }

    #[test]
    fn versions_and_extended_master_secret_are_parsed() {
        use rustls::version::{TLS12, TLS13};
        for (versions, names) in [
            (&[&TLS13, &TLS12][..], &["1.3", "1.2"][..]),
            (&[&TLS13], &["1.3"]),
            (&[&TLS12], &["1.2"]),
        ] {
            let bytes = hello(versions);
            let offer = Offer::parse(&bytes).unwrap();
            assert_eq!(offer.versions(), names);
            assert!(offer.may_resume());
            assert_eq!(Offer::parse(&pieces(&bytes, 1)), Some(offer));
        }
    }

    #[test]
    fn offered_protocols_are_parsed_and_bounded() {
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
        config.alpn_protocols = (0..20).map(|n| vec![b'a' + n; 100]).collect();
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let protocols = Offer::parse(&bytes).unwrap().protocols();
        assert_eq!(protocols.len(), MAX_PROTOCOLS);
        assert_eq!(protocols[1], format!("{}…", "b".repeat(64)));
    }

    #[test]
    fn tls10_hello_is_parsed() {
        // A ClientHello of TLS 1.0 with a random, no session, one suite, no compression and
        // no extensions.
        let body = [&[3, 1][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
        let length = u8::try_from(body.len()).unwrap();
        let records = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();
        let offer = Offer::parse(&records).unwrap();
        assert_eq!(offer.versions(), ["1.0"]);
        assert!(!offer.may_resume());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Offer::parse(&bytes);
        }

        #[test]
        fn damaged_hello_does_not_panic(at in 0_usize..2000, to: u8, cut in 0_usize..2000) {
            let mut bytes = hello(rustls::ALL_VERSIONS);
            let at = at % bytes.len();
            bytes[at] = to;
            bytes.truncate(cut);
            let _ = Offer::parse(&bytes);
        }
    }
}
