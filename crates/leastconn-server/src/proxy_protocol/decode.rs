//! Reading a header out of the bytes that have come so far.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{Endpoints, FIXED, Header, MAX_REST, MAX_V1, SIGNATURE, tlv};

/// What came is no header that is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else.
    #[error("{0} came where a PROXY header was required")]
    Missing(Instead),
    /// It begins like one.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
    /// It is one, for what is not carried here.
    #[error("the PROXY header is for {0}, and only TCP is taken")]
    OtherProtocol(&'static str),
    /// Bytes were changed on the way.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
    /// So many bytes.
    #[error("the PROXY header has {0} bytes after its first {FIXED}, and {MAX_REST} are the most")]
    TooLong(usize),
}

/// What came in place of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instead {
    /// TLS: the sender does not send headers, or is no balancer.
    Tls,
    /// HTTP.
    Http,
    /// Whatever begins like this.
    Bytes(Vec<u8>),
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls => f.write_str("a TLS ClientHello"),
            Self::Http => f.write_str("an HTTP request"),
            Self::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
        }
    }
}

impl Instead {
    fn of(bytes: &[u8]) -> Self {
        const METHODS: [&[u8]; 6] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"PRI * "];
        // A TLS record of type "handshake"; it may be all that has come.
        if bytes.first() == Some(&0x16) && bytes.get(1).is_none_or(|&major| major == 3) {
            return Self::Tls;
        }
        if METHODS.iter().any(|method| bytes.starts_with(method)) {
            return Self::Http;
        }
        Self::Bytes(bytes.iter().take(16).copied().collect())
    }
}

/// The header that `bytes` begin with, and its length; `None`: all of `bytes`
/// belong to a header, and there is more to come.
///
/// What follows the header is not looked at.
///
/// # Errors
/// As soon as it cannot become a header that is taken.
pub fn parse(bytes: &[u8]) -> Result<Option<(usize, Header)>, HeaderError> {
    const WORD: &[u8] = b"PROXY ";
    if begins_like(bytes, WORD) {
        return if bytes.len() < WORD.len() {
            Ok(None)
        } else {
            version_1(bytes)
        };
    }
    if begins_like(bytes, &SIGNATURE) {
        return version_2(bytes);
    }
    Err(HeaderError::Missing(Instead::of(bytes)))
}

/// As far as both go.
fn begins_like(bytes: &[u8], start: &[u8]) -> bool {
    bytes
        .iter()
        .zip(start)
        .all(|(byte, expected)| byte == expected)
}

fn version_1(bytes: &[u8]) -> Result<Option<(usize, Header)>, HeaderError> {
    let bytes = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < MAX_V1 {
            Ok(None)
        } else {
            Err(HeaderError::Malformed("its line has no end"))
        };
    };
    let line = bytes[..end]
        .strip_suffix(b"\r")
        .ok_or(HeaderError::Malformed("its line does not end in CR and LF"))?;
    let line = str::from_utf8(line).map_err(|_| HeaderError::Malformed("it is not text"))?;
    // Exactly one space between any two: what is empty is no address.
    let mut words = line.split(' ').skip(1);
    let header = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => Header::Local,
        Some("TCP4") => endpoints::<Ipv4Addr>(words)?,
        Some("TCP6") => endpoints::<Ipv6Addr>(words)?,
        _ => {
            return Err(HeaderError::Malformed(
                "it is for neither TCP4, TCP6 nor UNKNOWN",
            ));
        }
    };
    Ok(Some((end + 1, header)))
}

fn endpoints<'a, A>(words: impl Iterator<Item = &'a str>) -> Result<Header, HeaderError>
where
    A: FromStr + Into<IpAddr>,
{
    let words: Vec<_> = words.take(5).collect();
    let [source, destination, source_port, destination_port] = words[..] else {
        return Err(HeaderError::Malformed("it has not two addresses and ports"));
    };
    let address = |text: &str| {
        let address = text.parse::<A>();
        address
            .map(Into::into)
            .map_err(|_| HeaderError::Malformed("an address is none"))
    };
    Ok(Header::Proxied(Endpoints::new(
        SocketAddr::new(address(source)?, port(source_port)?),
        SocketAddr::new(address(destination)?, port(destination_port)?),
    )))
}

/// `u16::from_str` takes a leading `+`, and zeros.
fn port(text: &str) -> Result<u16, HeaderError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (plain && canonical)
        .then(|| text.parse().ok())
        .flatten()
        .ok_or(HeaderError::Malformed("a port is none"))
}

fn version_2(bytes: &[u8]) -> Result<Option<(usize, Header)>, HeaderError> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
        return Ok(None);
    };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if command >> 4 != 2 {
        return Err(HeaderError::Malformed("its version is not 2"));
    }
    if !matches!(command, LOCAL | PROXY) {
        return Err(HeaderError::Malformed(
            "its command is neither LOCAL nor PROXY",
        ));
    }
    if length > MAX_REST {
        return Err(HeaderError::TooLong(length));
    }
    // Of a LOCAL header everything is to be discarded, the family too.
    let addresses = match (command, family) {
        (LOCAL, _) | (_, 0x00) => 0,
        (_, 0x11) => 2 * 4 + 2 * 2,
        (_, 0x21) => 2 * 16 + 2 * 2,
        (_, 0x12 | 0x22) => return Err(HeaderError::OtherProtocol("UDP")),
        (_, 0x31 | 0x32) => return Err(HeaderError::OtherProtocol("a UNIX socket")),
        _ => return Err(HeaderError::Malformed("its address family is unknown")),
    };
    if length < addresses {
        return Err(HeaderError::Malformed("it is too short for its addresses"));
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    let end = FIXED + length;
    if command == LOCAL {
        return Ok(Some((end, Header::Local)));
    }
    let (addresses, tlvs) = rest.split_at(addresses);
    tlv::check(&bytes[..end], end - tlvs.len())?;
    let header = match family {
        0x11 => binary(addresses, |bytes| <[u8; 4]>::try_from(bytes).ok()),
        0x21 => binary(addresses, |bytes| <[u8; 16]>::try_from(bytes).ok()),
        _ => Some(Header::Local),
    };
    let header = header.ok_or(HeaderError::Malformed("it is too short for its addresses"))?;
    Ok(Some((end, header)))
}

/// Source address, destination address, and their ports in the same order.
fn binary<A: Into<IpAddr>>(bytes: &[u8], address: impl Fn(&[u8]) -> Option<A>) -> Option<Header> {
    let (addresses, ports) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(Header::Proxied(Endpoints::new(
        SocketAddr::new(address(source)?.into(), port(0)),
        SocketAddr::new(address(destination)?.into(), port(2)),
    )))
}
