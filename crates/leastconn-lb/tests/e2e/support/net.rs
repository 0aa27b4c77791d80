//! Clients and sockets.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use leastconn_testkit::client::{alert, read_line, read_to_close};
use leastconn_testkit::{DEADLINE, TestCa, TlsClient, eventually, within};
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connects a client that must be refused, and returns the alert, or `None` if the
/// connection ended without one.
///
/// # Panics
///
/// If the client gets data from a server.
pub(crate) async fn refused(client: &TlsClient, addr: SocketAddr) -> Option<AlertDescription> {
    let error = match client.connect(addr).await {
        Err(error) => error,
        Ok(mut stream) => match read_to_close(&mut stream).await {
            Err(error) => error,
            Ok(bytes) => {
                assert!(bytes.is_empty(), "the client was admitted: {bytes:?}");
                return None;
            }
        },
    };
    Some(alert(&error).unwrap_or_else(|| panic!("expected an alert, got {error}")))
}

/// Connects a client with TLS 1.2 until its handshake fails, and returns the alert.
pub(crate) async fn eventually_refused(
    client: &TlsClient,
    addr: SocketAddr,
) -> Option<AlertDescription> {
    let refusal = eventually(DEADLINE, || async {
        match client.clone().tls12().connect(addr).await {
            // The balancer may close the connection during the exchange.
            Ok(stream) => Err(format!("the client was admitted: {:?}", talk(stream).await)),
            Err(error) => Ok(alert(&error)),
        }
    });
    refusal.await.unwrap()
}

/// Exchanges data with a server that sends its name and then echoes. Closes the connection
/// cleanly, and returns the name.
pub(crate) async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<String> {
    use tokio::io::AsyncWriteExt;
    let name = read_line(&mut stream).await?;
    let echoed = leastconn_testkit::client::roundtrip(&mut stream, b"hello").await?;
    assert_eq!(echoed, b"hello");
    stream.shutdown().await?;
    assert!(read_to_close(&mut stream).await?.is_empty());
    Ok(name)
}

/// Connects without TLS, and sends a PROXY header with the address `source`.
pub(crate) async fn connect_proxied(addr: SocketAddr, source: &str) -> TcpStream {
    use tokio::io::AsyncWriteExt;
    let (family, local) = match source.contains(':') {
        true => ("TCP6", "2001:db8:ffff::1"),
        false => ("TCP4", "198.51.100.1"),
    };
    let mut stream = tcp(addr).await;
    let header = format!("PROXY {family} {source} {local} 4660 443\r\n");
    stream.write_all(header.as_bytes()).await.unwrap();
    stream
}

/// Connects without TLS.
pub(crate) async fn tcp(addr: SocketAddr) -> TcpStream {
    // Connect with the standard library: Tokio also checks for socket errors after
    // connecting, and would fail if the balancer has already reset the connection.
    let connecting = tokio::task::spawn_blocking(move || std::net::TcpStream::connect(addr));
    let connected = within(DEADLINE, "connecting", connecting).await;
    let stream = connected.unwrap().unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

/// Connects from this loopback address.
pub(crate) async fn connect_from(
    source: impl Into<Ipv4Addr>,
    addr: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source.into(), 0).into())?;
    let stream = within(DEADLINE, "connecting", socket.connect(addr)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Waits until connections to the address are refused.
pub(crate) async fn wait_refused(addr: SocketAddr) {
    let refused = eventually(DEADLINE, || async move {
        match TcpStream::connect(addr).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{addr}: {other:?}")),
        }
    });
    refused.await.unwrap();
}

/// Listens on an address, so that the balancer cannot bind it.
pub(crate) fn listen(at: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    // Set the same option as the socket that reserves the port.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    socket.listen(1).unwrap()
}

/// Closes the socket with a RST.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// Returns the bytes of a complete ClientHello.
pub(crate) fn client_hello(ca: &TestCa) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    // Offer only the group of the test client, so that the balancer sends no
    // HelloRetryRequest.
    let provider = rustls::crypto::CryptoProvider {
        kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519],
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}
