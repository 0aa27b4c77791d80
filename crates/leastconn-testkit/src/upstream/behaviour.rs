//! Behaviours of an upstream server.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::data::{Sha256, pattern};
use crate::proxy;
#[cfg(doc)]
use crate::proxy::Header;

/// How an upstream handles a connection.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Echoes all bytes, and closes when the client has finished sending.
    Echo,
    /// Sends the name and a line feed, then echoes.
    Named(String),
    /// Reads a PROXY header (before the TLS handshake, if any), sends it as a line of
    /// text (see [`Header`]), then echoes.
    ProxyHeader,
    /// Reads until the client has finished sending, waits for `delay`, sends `bytes` bytes
    /// of the pattern, and closes the connection.
    DelayedResponse { delay: Duration, bytes: u64 },
    /// Reads until the client has finished sending, then sends the SHA-256 of the
    /// received bytes in hexadecimal.
    Sink,
    /// Sends `bytes` bytes of the pattern, shuts down its write side, and reads to the end.
    Source { bytes: u64 },
    /// Reads this many bytes, then resets the connection.
    ResetAfter(u64),
    /// Resets the connection immediately after accepting it.
    AcceptThenReset,
    /// Closes the connection immediately after accepting it.
    AcceptThenClose,
    /// Reads to the end and sends nothing.
    Silent,
    /// Neither reads nor writes. The connection stays open until the server is stopped.
    Stuck,
    /// Reads a request head, sends a response with this status and an empty body, and
    /// closes the connection.
    Http(u16),
}

impl Behaviour {
    pub(super) async fn serve(self, tcp: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        if matches!(self, Self::ResetAfter(_) | Self::AcceptThenReset) {
            // Closing with a linger time of zero sends RST.
            socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
        }
        if matches!(self, Self::AcceptThenReset | Self::AcceptThenClose) {
            return Ok(());
        }
        let (mut tcp, mut this) = (tcp, self);
        if matches!(this, Self::ProxyHeader) {
            let received = proxy::read(&mut tcp).await;
            this =
                Self::Named(received.map_or_else(|e| format!("no header: {e}"), |r| r.to_string()));
        }
        match tls {
            None => this.run(tcp).await,
            Some(tls) => this.run(tls.accept(tcp).await?).await,
        }
    }

    async fn run(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        match self {
            Self::Echo => echo(&mut stream).await?,
            Self::Named(name) => {
                stream.write_all(format!("{name}\n").as_bytes()).await?;
                stream.flush().await?;
                echo(&mut stream).await?;
            }
            Self::DelayedResponse { delay, bytes } => {
                digest(&mut stream).await?;
                tokio::time::sleep(delay).await;
                send_pattern(&mut stream, bytes).await?;
            }
            Self::Sink => {
                let digest = digest(&mut stream).await?;
                stream.write_all(digest.as_bytes()).await?;
                stream.shutdown().await?;
            }
            Self::Source { bytes } => {
                send_pattern(&mut stream, bytes).await?;
                digest(&mut stream).await?;
            }
            Self::ResetAfter(bytes) => {
                tokio::io::copy(&mut stream.take(bytes), &mut tokio::io::sink()).await?;
            }
            // `serve` handles these behaviours itself.
            Self::AcceptThenReset | Self::AcceptThenClose | Self::ProxyHeader => {}
            Self::Silent => {
                digest(&mut stream).await?;
            }
            Self::Stuck => std::future::pending().await,
            Self::Http(status) => respond_http(&mut stream, status).await?,
        }
        Ok(())
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

async fn digest<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut digest = Sha256::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(digest.finish_hex()),
            n => digest.update(&buffer[..n]),
        }
    }
}

async fn send_pattern<S: AsyncWrite + Unpin>(stream: &mut S, bytes: u64) -> io::Result<()> {
    const CHUNK: u64 = 64 * 1024;
    let mut sent = 0;
    while sent < bytes {
        let length = CHUNK.min(bytes - sent);
        stream.write_all(&pattern(sent, length as usize)).await?;
        sent += length;
    }
    stream.shutdown().await
}

async fn respond_http<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    status: u16,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let response =
        format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}
