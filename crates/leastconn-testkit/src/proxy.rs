//! PROXY protocol headers from the other side: made as a test wants them, right or
//! wrong, and read by a reader of its own, so that the balancer's is not its own judge.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 with this command, family and all that follows.
///
/// # Panics
/// When that is longer than a header can be.
pub fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

/// What a header said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// 1 or 2.
    pub version: u8,
    /// Source and destination; `None`: a connection of the sender's own.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// Types and values.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

impl Received {
    /// The value of a type that comes once.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        let mut all = self.tlvs.iter().filter(|(of, _)| *of == kind);
        let first = all.next().map(|(_, value)| &**value);
        assert!(all.next().is_none(), "{kind:#x} comes twice");
        first
    }
}

impl std::fmt::Display for Received {
    /// `v2 10.0.0.1:1 10.0.0.2:2 02=6c62`, or `v1 local`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}", self.version)?;
        match self.ends {
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

/// Reads a header, and nothing that follows it.
///
/// # Errors
/// When it is none.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Received> {
    // Both versions are longer than that.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == *SIGNATURE {
        read_v2(stream).await
    } else {
        read_v1(stream, start.to_vec()).await
    }
}

async fn read_v1<S: AsyncRead + Unpin>(stream: &mut S, mut line: Vec<u8>) -> io::Result<Received> {
    while !line.ends_with(b"\r\n") {
        if line.len() == 107 {
            return Err(io::Error::other("a long line"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = String::from_utf8(line).map_err(io::Error::other)?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    let ends = match words[..] {
        ["PROXY", "UNKNOWN"] => None,
        [
            "PROXY",
            family @ ("TCP4" | "TCP6"),
            from,
            to,
            from_port,
            to_port,
        ] => {
            let end = |ip: &str, port: &str| {
                let text = if family == "TCP4" {
                    format!("{ip}:{port}")
                } else {
                    format!("[{ip}]:{port}")
                };
                text.parse().map_err(io::Error::other)
            };
            Some((end(from, from_port)?, end(to, to_port)?))
        }
        _ => return Err(io::Error::other(line)),
    };
    Ok(Received {
        version: 1,
        ends,
        tlvs: Vec::new(),
    })
}

async fn read_v2<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Received> {
    let (command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let mut rest = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut rest).await?;
    let mut rest = &rest[..];
    let ends = match (command, family) {
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
    Ok(Received {
        version: 2,
        ends,
        tlvs: tlvs(rest)?,
    })
}

/// Types and values, of a header or of the TLV that has others in it.
///
/// # Errors
/// When they are cut off.
pub fn tlvs(mut bytes: &[u8]) -> io::Result<Vec<(u8, Vec<u8>)>> {
    let mut all = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let cut = || io::Error::other("a TLV is cut off");
        let (value, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        all.push((*kind, value.to_vec()));
        bytes = rest;
    }
    if bytes.is_empty() {
        Ok(all)
    } else {
        Err(io::Error::other("a TLV is cut off"))
    }
}

/// A transport whose first write has something before it, in the same segment.
#[derive(Debug)]
pub struct Prefixed<S> {
    stream: S,
    prefix: Vec<u8>,
}

impl<S> Prefixed<S> {
    /// `prefix` goes before what is written first.
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
        assert_eq!(written, all.len(), "a socket's buffer takes that much");
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
