//! Writing a header.

use std::net::{IpAddr, SocketAddr};

use super::{Endpoints, FIXED, SIGNATURE};

/// The headers that servers can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
    /// Binary, with what TLS says of the client.
    V2Tls,
    /// The same with the client's certificate in DER.
    V2TlsFull,
}

/// What TLS says of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTls<'a> {
    /// `1.2` or `1.3`.
    pub version: &'a str,
    /// The suite, by IANA's name.
    pub cipher: &'a str,
    /// Whether it goes on with a session of an earlier connection.
    pub resumed: bool,
    /// Whether it has shown a certificate, in this connection or the one that its
    /// session began with; it was verified for this one in either case.
    pub certificate: bool,
    /// The common name in it.
    pub cn: Option<&'a str>,
    /// The server name that it asked for.
    pub server_name: Option<&'a str>,
    /// The application protocol that was agreed on.
    pub alpn: Option<&'a str>,
    /// The name that the client's rule matched, with its kind: `uri:spiffe://…`, `dns:…`.
    pub identity: Option<&'a str>,
    /// The certificate.
    pub der: Option<&'a [u8]>,
}

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;
const SSL_CLIENT_CERT: u8 = 0x28;
/// In the range that the specification leaves to applications (0xE0 to 0xEF). AWS, Azure
/// and Google use others of it.
const IDENTITY: u8 = 0xe5;

/// Flags of [`SSL`].
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;

/// Longer texts are left out: half a name would be another name, and receivers
/// have limits of their own. Names of hosts have 253, common names 64 by standard.
const MAX_TEXT: usize = 1024;

/// A header is at most so long behind its fixed part.
const MAX_REST: usize = u16::MAX as usize;

/// Two IPv6 addresses and ports.
const MAX_ADDRESSES: usize = 36;

/// Of version 1, for a connection without addresses.
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

impl Version {
    /// The header for a client's connection.
    pub fn proxied(self, ends: Endpoints, tls: Option<&ClientTls<'_>>) -> Vec<u8> {
        let ends = SameFamily::of(ends);
        match self {
            Self::V1 => ends.line().into_bytes(),
            Self::V2 | Self::V2Tls | Self::V2TlsFull => ends.binary(&self.tlvs(tls)),
        }
    }

    /// The header for the connection of a client that has no IP address: one of a UNIX
    /// socket. Its family is unspecified.
    pub fn unspecified(self, tls: Option<&ClientTls<'_>>) -> Vec<u8> {
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

    /// The header for a connection of our own, such as a probe's.
    pub fn local(self) -> Vec<u8> {
        match self {
            Self::V1 => UNKNOWN.to_vec(),
            Self::V2 | Self::V2Tls | Self::V2TlsFull => {
                [&SIGNATURE[..], &[0x20, 0x00, 0, 0]].concat()
            }
        }
    }
}

/// Source and destination in the one family that a header has for both: where they
/// differ, the IPv4 one is written as IPv6.
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
        let mut addresses = Vec::with_capacity(36);
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

/// Every text is at most [`MAX_TEXT`] bytes, and a certificate is left out that does not fit.
const fn length(bytes: usize) -> [u8; 2] {
    (bytes as u16).to_be_bytes()
}

fn tlvs(tls: &ClientTls<'_>) -> Vec<u8> {
    let mut ssl = Vec::new();
    ssl.push(match (tls.certificate, tls.resumed) {
        (false, _) => CLIENT_SSL,
        // What a certificate of this connection is, it is of its session too.
        (true, false) => CLIENT_SSL | CLIENT_CERT_CONN | CLIENT_CERT_SESS,
        // And that of its session was not shown again, nor its key proven.
        (true, true) => CLIENT_SSL | CLIENT_CERT_SESS,
    });
    // Zero: a certificate was shown and verified.
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
        if others + der.len() <= MAX_REST {
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

/// The specification's example is OpenSSL's name, and that is what HAProxy sends
/// and what rules at the other end are written for. Of TLS 1.3 it is IANA's.
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
