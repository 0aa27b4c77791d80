//! Encodes a header.

use std::net::{IpAddr, SocketAddr};

use super::{Endpoints, FIXED, SIGNATURE};

/// The format in which a header is encoded.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Version 1: one line of text.
    V1,
    /// Version 2 without TLVs.
    V2,
    /// Version 2 with TLVs that describe the client's TLS session.
    V2Tls,
    /// Like [`V2Tls`](Self::V2Tls), plus the client's certificate in DER.
    V2TlsFull,
}

/// Properties of the client's TLS session, sent as version 2 TLVs.
///
/// Text longer than 1,024 bytes is omitted: a truncated name would be a different name.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTls<'a> {
    /// Protocol version: `1.2` or `1.3`.
    pub version: &'a str,
    /// IANA name of the cipher suite.
    pub cipher: &'a str,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// Whether the client presented a certificate, either in this connection or, if the session was
    /// resumed, in the original one. The certificate must have been verified.
    pub certificate: bool,
    /// The certificate's common name.
    pub cn: Option<&'a str>,
    /// Server name that the client requested (SNI).
    pub server_name: Option<&'a str>,
    /// Negotiated application protocol (ALPN).
    pub alpn: Option<&'a str>,
    /// The name under which the client was authorized, prefixed with its kind: `uri:spiffe://…` or
    /// `dns:…`. Sent as TLV `0xe5`, a type reserved for applications.
    pub identity: Option<&'a str>,
    /// The client's certificate in DER. Only [`Version::V2TlsFull`] sends it, and only if the
    /// header stays within its maximum length.
    pub der: Option<&'a [u8]>,
}

impl<'a> ClientTls<'a> {
    /// Describes a new session without a client certificate, SNI or ALPN.
    #[must_use]
    pub const fn new(version: &'a str, cipher: &'a str) -> Self {
        Self {
            version,
            cipher,
            resumed: false,
            certificate: false,
            cn: None,
            server_name: None,
            alpn: None,
            identity: None,
            der: None,
        }
    }
}

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;
const SSL_CLIENT_CERT: u8 = 0x28;
/// TLV type of the identity. It is in the range reserved for applications (0xE0 to 0xEF), and AWS,
/// Azure and Google do not use it.
const IDENTITY: u8 = 0xe5;

/// Flags in the value of the [`SSL`] TLV.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;

/// Maximum length of a text value, in bytes. Longer values are omitted: a truncated name would be a
/// different name, and receivers have limits of their own. For comparison, host names have at most
/// 253 bytes and common names at most 64.
const MAX_TEXT: usize = 1024;

/// Maximum length that the format allows for everything after the fixed part.
const MAX_LENGTH: usize = u16::MAX as usize;

/// Length of two IPv6 addresses and two ports.
const MAX_ADDRESSES: usize = 36;

/// Version 1 header for a connection whose addresses are not sent.
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

impl Version {
    /// Encodes the header for a forwarded connection. Only [`V2Tls`](Self::V2Tls) and
    /// [`V2TlsFull`](Self::V2TlsFull) use `tls`.
    #[must_use]
    pub fn encode_proxied(self, ends: Endpoints, tls: Option<&ClientTls<'_>>) -> Vec<u8> {
        let ends = SameFamily::of(ends);
        match self {
            Self::V1 => ends.line().into_bytes(),
            Self::V2 | Self::V2Tls | Self::V2TlsFull => ends.binary(&self.tlvs(tls)),
        }
    }

    /// Encodes the header for a forwarded connection without IP addresses, such as a
    /// connection from a UNIX socket. The address family in the header is unspecified.
    #[must_use]
    pub fn encode_unspecified(self, tls: Option<&ClientTls<'_>>) -> Vec<u8> {
        match self {
            Self::V1 => UNKNOWN.to_vec(),
            Self::V2 | Self::V2Tls | Self::V2TlsFull => {
                let tlvs = self.tlvs(tls);
                [&SIGNATURE[..], &[0x21, 0x00], &length(tlvs.len()), &tlvs].concat()
            }
        }
    }

    fn tlvs(self, tls: Option<&ClientTls<'_>>) -> Vec<u8> {
        match (self, tls) {
            (Self::V2Tls, Some(tls)) => tlvs(&ClientTls { der: None, ..*tls }),
            (Self::V2TlsFull, Some(tls)) => tlvs(tls),
            _ => Vec::new(),
        }
    }

    /// Encodes the header for a connection that the proxy opens on its own behalf, such as a health
    /// check.
    #[must_use]
    pub fn encode_local(self) -> Vec<u8> {
        match self {
            Self::V1 => UNKNOWN.to_vec(),
            Self::V2 | Self::V2Tls | Self::V2TlsFull => {
                [&SIGNATURE[..], &[0x20, 0x00, 0, 0]].concat()
            }
        }
    }
}

/// Two addresses of the same family, as the format requires. If the families differ, the IPv4
/// address is converted to an IPv4-mapped IPv6 address.
enum SameFamily {
    V4(Endpoints),
    V6(Endpoints),
}

impl SameFamily {
    const fn of(ends: Endpoints) -> Self {
        if ends.source.is_ipv4() && ends.destination.is_ipv4() {
            return Self::V4(ends);
        }
        Self::V6(Endpoints {
            source: mapped(ends.source),
            destination: mapped(ends.destination),
        })
    }

    const fn both(&self) -> (SocketAddr, SocketAddr) {
        let (Self::V4(ends) | Self::V6(ends)) = self;
        (ends.source, ends.destination)
    }

    fn line(&self) -> String {
        let (source, destination) = self.both();
        let family = match self {
            Self::V4(_) => "TCP4",
            Self::V6(_) => "TCP6",
        };
        format!(
            "PROXY {family} {} {} {} {}\r\n",
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port()
        )
    }

    fn binary(&self, tlvs: &[u8]) -> Vec<u8> {
        let (source, destination) = self.both();
        let mut addresses = Vec::with_capacity(MAX_ADDRESSES);
        for end in [source, destination] {
            match end.ip() {
                IpAddr::V4(ip) => addresses.extend(ip.octets()),
                IpAddr::V6(ip) => addresses.extend(ip.octets()),
            }
        }
        for end in [source, destination] {
            addresses.extend(end.port().to_be_bytes());
        }
        let family = match self {
            Self::V4(_) => 0x11,
            Self::V6(_) => 0x21,
        };
        let length = length(addresses.len() + tlvs.len());
        let mut header = Vec::with_capacity(FIXED + addresses.len() + tlvs.len());
        header.extend(SIGNATURE);
        header.extend([0x21, family]);
        header.extend(length);
        header.extend(addresses);
        header.extend(tlvs);
        header
    }
}

const fn mapped(end: SocketAddr) -> SocketAddr {
    match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), end.port()),
        IpAddr::V6(_) => end,
    }
}

/// Encodes a length. Every length fits into 16 bits: text values have at most [`MAX_TEXT`] bytes,
/// and a certificate that does not fit is omitted.
const fn length(bytes: usize) -> [u8; 2] {
    (bytes as u16).to_be_bytes()
}

fn tlvs(tls: &ClientTls<'_>) -> Vec<u8> {
    let mut ssl = Vec::new();
    ssl.push(match (tls.certificate, tls.resumed) {
        (false, _) => CLIENT_SSL,
        // A certificate presented in this connection also belongs to the session.
        (true, false) => CLIENT_SSL | CLIENT_CERT_CONN | CLIENT_CERT_SESS,
        // A client that resumes a session does not present its certificate again.
        (true, true) => CLIENT_SSL | CLIENT_CERT_SESS,
    });
    // The verification result: 0 means that a certificate was presented and verified.
    ssl.extend(u32::from(!tls.certificate).to_be_bytes());
    push(
        &mut ssl,
        SSL_VERSION,
        format!("TLSv{}", tls.version).as_bytes(),
    );
    push(&mut ssl, SSL_CIPHER, openssl_name(tls.cipher).as_bytes());
    if let Some(cn) = tls.cn {
        push(&mut ssl, SSL_CN, cn.as_bytes());
    }
    let mut tlvs = Vec::new();
    let texts = [
        (AUTHORITY, tls.server_name),
        (ALPN, tls.alpn),
        (IDENTITY, tls.identity),
    ];
    for (kind, text) in texts {
        if let Some(text) = text {
            push(&mut tlvs, kind, text.as_bytes());
        }
    }
    if let Some(der) = tls.der {
        const HEADS: usize = 2 * 3;
        let others = MAX_ADDRESSES + tlvs.len() + ssl.len() + HEADS;
        if others + der.len() <= MAX_LENGTH {
            ssl.push(SSL_CLIENT_CERT);
            ssl.extend(length(der.len()));
            ssl.extend(der);
        }
    }
    tlvs.push(SSL);
    tlvs.extend(length(ssl.len()));
    tlvs.extend(ssl);
    tlvs
}

fn push(tlvs: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if value.len() <= MAX_TEXT {
        tlvs.push(kind);
        tlvs.extend(length(value.len()));
        tlvs.extend(value);
    }
}

/// Maps the IANA name of a cipher suite to its OpenSSL name. HAProxy sends OpenSSL names, and
/// receivers expect them. For TLS 1.3 cipher suites the two names are identical.
fn openssl_name(cipher: &str) -> &str {
    match cipher {
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other,
    }
}
