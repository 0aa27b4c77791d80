//! PROXY protocol headers: an encoder for valid and invalid headers, and a parser that
//! is independent of the balancer's.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Encodes a version 2 header from command, family and `rest` (addresses and TLVs).
///
/// # Panics
/// If `rest` is longer than 65,535 bytes.
pub fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Version of the PROXY protocol: 1 or 2.
    pub version: u8,
    /// Source and destination; `None` for `LOCAL` and `UNKNOWN`.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// TLVs, as pairs of type and value.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

impl Header {
    /// The value of the TLV of type `kind`, if the header has one.
    ///
    /// # Panics
    /// If the type occurs more than once.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        let mut all = self.tlvs.iter().filter(|(of, _)| *of == kind);
        let first = all.next().map(|(_, value)| &**value);
        assert!(all.next().is_none(), "TLV {kind:#x} is repeated");
        first
    }
}

impl std::fmt::Display for Header {
    /// Formats the header, for example as `v2 10.0.0.1:1 10.0.0.2:2 02=6c62` or `v1 local`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}", self.version)?;
        match self.addresses {
            Some((from, to)) => write!(f, " {from} {to}")?,
            None => f.write_str(" local")?,
        }
        for (kind, value) in &self.tlvs {
            write!(f, " {kind:02x}=")?;
            value.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

/// Reads a header, and no bytes after it.
///
/// # Errors
/// If the bytes are not a valid header.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Header> {
    // Reading 12 bytes is safe, because headers of both versions are longer.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == *SIGNATURE {
        read_v2(stream).await
    } else {
        read_v1(stream, start.to_vec()).await
    }
}

async fn read_v1<S: AsyncRead + Unpin>(stream: &mut S, mut line: Vec<u8>) -> io::Result<Header> {
    while !line.ends_with(b"\r\n") {
        if line.len() == 107 {
            return Err(io::Error::other("version 1 header is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = String::from_utf8(line).map_err(io::Error::other)?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    let addresses = match words[..] {
        ["PROXY", "UNKNOWN"] => None,
        [
            "PROXY",
            family @ ("TCP4" | "TCP6"),
            from,
            to,
            from_port,
            to_port,
        ] => {
            let address = |ip: &str, port: &str| {
                let text = if family == "TCP4" {
                    format!("{ip}:{port}")
                } else {
                    format!("[{ip}]:{port}")
                };
                text.parse().map_err(io::Error::other)
            };
            Some((address(from, from_port)?, address(to, to_port)?))
        }
        _ => return Err(io::Error::other(line)),
    };
    Ok(Header {
        version: 1,
        addresses,
        tlvs: Vec::new(),
    })
}

async fn read_v2<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Header> {
    let (command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let mut rest = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut rest).await?;
    let mut rest = &rest[..];
    let addresses = match (command, family) {
        (0x20 | 0x21, 0x00) => None,
        (0x21, 0x11) => {
            let (from, to) = (rest.read_u32().await?, rest.read_u32().await?);
            let (from, to) = (Ipv4Addr::from_bits(from), Ipv4Addr::from_bits(to));
            let ports = (rest.read_u16().await?, rest.read_u16().await?);
            Some(((from, ports.0).into(), (to, ports.1).into()))
        }
        (0x21, 0x21) => {
            let (from, to) = (rest.read_u128().await?, rest.read_u128().await?);
            let (from, to) = (Ipv6Addr::from_bits(from), Ipv6Addr::from_bits(to));
            let ports = (rest.read_u16().await?, rest.read_u16().await?);
            Some(((from, ports.0).into(), (to, ports.1).into()))
        }
        other => return Err(io::Error::other(format!("{other:x?}"))),
    };
    Ok(Header {
        version: 2,
        addresses,
        tlvs: tlvs(rest)?,
    })
}

/// Parses TLVs into types and values.
///
/// # Errors
/// If a TLV is truncated.
pub fn tlvs(mut bytes: &[u8]) -> io::Result<Vec<(u8, Vec<u8>)>> {
    let mut all = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let truncated = || io::Error::other("truncated TLV");
        let (value, rest) = rest.split_at_checked(length).ok_or_else(truncated)?;
        all.push((*kind, value.to_vec()));
        bytes = rest;
    }
    if bytes.is_empty() {
        Ok(all)
    } else {
        Err(io::Error::other("truncated TLV"))
    }
}

/// A transport that sends a prefix in the same segment as the first write.
#[derive(Debug)]
pub struct Prefixed<S> {
    stream: S,
    prefix: Vec<u8>,
}

impl<S> Prefixed<S> {
    pub fn new(stream: S, prefix: &[u8]) -> Self {
        Self {
            stream,
            prefix: prefix.to_vec(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        }
        let all = [&this.prefix, bytes].concat();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &all))?;
        assert_eq!(written, all.len(), "partial write");
        this.prefix.clear();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
