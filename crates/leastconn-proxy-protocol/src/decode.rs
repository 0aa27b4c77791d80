//! Decodes a header from the bytes received so far.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{Endpoints, FIXED, Header, HeaderError, MAX_REST, MAX_V1, SIGNATURE, Unexpected, tlv};

/// Decodes the header at the start of `bytes`.
///
/// Returns the header and its length, or `None` if the header is still incomplete. Bytes after the
/// header are ignored.
///
/// # Errors
/// If `bytes` cannot be the start of an acceptable header. Most errors are detected before the
/// header is complete. Errors in a version 1 line are reported only once the whole line has
/// arrived.
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
    Err(HeaderError::Missing(Unexpected::of(bytes)))
}

/// Whether `bytes` starts with `start`, or is itself a prefix of `start`.
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
            Err(HeaderError::Malformed("no line end within 107 bytes"))
        };
    };
    let line = bytes[..end]
        .strip_suffix(b"\r")
        .ok_or(HeaderError::Malformed("line does not end in CR LF"))?;
    let line = str::from_utf8(line).map_err(|_| HeaderError::Malformed("not UTF-8"))?;
    // Fields are separated by exactly one space. A second space would produce an empty field,
    // which is rejected below.
    let mut words = line.split(' ').skip(1);
    let header = match words.next() {
        // The specification says to ignore everything after `UNKNOWN`.
        Some("UNKNOWN") => Header::Local,
        Some("TCP4") => endpoints::<Ipv4Addr>(words)?,
        Some("TCP6") => endpoints::<Ipv6Addr>(words)?,
        _ => {
            return Err(HeaderError::Malformed(
                "protocol is not TCP4, TCP6 or UNKNOWN",
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
        return Err(HeaderError::Malformed(
            "expected two addresses and two ports",
        ));
    };
    let address = |text: &str| {
        let address = text.parse::<A>();
        address
            .map(Into::into)
            .map_err(|_| HeaderError::Malformed("invalid address"))
    };
    Ok(Header::Proxied(Endpoints::new(
        SocketAddr::new(address(source)?, port(source_port)?),
        SocketAddr::new(address(destination)?, port(destination_port)?),
    )))
}

/// Parses a port. Stricter than `u16::from_str`, which accepts a leading `+` and leading zeros.
fn port(text: &str) -> Result<u16, HeaderError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (plain && canonical)
        .then(|| text.parse().ok())
        .flatten()
        .ok_or(HeaderError::Malformed("invalid port"))
}

fn version_2(bytes: &[u8]) -> Result<Option<(usize, Header)>, HeaderError> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let Some(&command) = bytes.get(SIGNATURE.len()) else {
        return Ok(None);
    };
    if command >> 4 != 2 {
        return Err(HeaderError::Malformed("version is not 2"));
    }
    if !matches!(command, LOCAL | PROXY) {
        return Err(HeaderError::Malformed("command is not LOCAL or PROXY"));
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
        return Ok(None);
    };
    let family = fixed[13];
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_REST {
        return Err(HeaderError::TooLong(length));
    }
    // The specification says to ignore the family, addresses and TLVs of a LOCAL header.
    let addresses = match (command, family) {
        (LOCAL, _) | (_, 0x00) => 0,
        (_, 0x11) => 2 * 4 + 2 * 2,
        (_, 0x21) => 2 * 16 + 2 * 2,
        (_, 0x12 | 0x22) => return Err(HeaderError::OtherProtocol("UDP")),
        (_, 0x31 | 0x32) => return Err(HeaderError::OtherProtocol("a UNIX socket")),
        _ => return Err(HeaderError::Malformed("unknown address family")),
    };
    if length < addresses {
        return Err(HeaderError::Malformed("too short for its addresses"));
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
    let header = header.ok_or(HeaderError::Malformed("too short for its addresses"))?;
    Ok(Some((end, header)))
}

/// Layout of `bytes`: source address, destination address, source port, destination port.
fn binary<A: Into<IpAddr>>(bytes: &[u8], address: impl Fn(&[u8]) -> Option<A>) -> Option<Header> {
    let (addresses, ports) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(Header::Proxied(Endpoints::new(
        SocketAddr::new(address(source)?.into(), port(0)),
        SocketAddr::new(address(destination)?.into(), port(2)),
    )))
}
