//! Both ends of a connection through the balancer, with or without TLS.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leastconn_testkit::{Cert, DEADLINE, TlsClient, eventually, within};
use rustls::{ClientConnection, ServerConfig, SupportedProtocolVersion};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::support::tls_servers::{MUTUAL, Servers};
use crate::support::{CLIENT1, NO_PROBES, Records, Running, Site, TLS, cn, entry};

/// Receive buffer of the test sockets, in bytes. It is small, so that unread data stays in
/// the balancer.
const RECEIVE_BUFFER: u32 = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Plain,
    Tls12,
    Tls13,
}

impl Transport {
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::Tls12, Self::Tls13];

    fn version(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::Plain | Self::Tls13 => &rustls::version::TLS13,
            Self::Tls12 => &rustls::version::TLS12,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls12 => "tls12",
            Self::Tls13 => "tls13",
        }
    }
}

/// How a stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Orderly,
    /// FIN without `close_notify`.
    Truncated,
    Reset,
}

impl End {
    fn of(result: io::Result<usize>) -> Self {
        match result.map_err(|error| error.kind()) {
            Ok(_) => Self::Orderly,
            Err(ErrorKind::UnexpectedEof) => Self::Truncated,
            Err(ErrorKind::ConnectionReset) => Self::Reset,
            Err(other) => panic!("{other}"),
        }
    }
}

pub(super) enum Peer {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Peer {
    pub(super) fn socket_mut(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.socket().local_addr().unwrap()
    }

    /// Returns the socket. Drops the TLS session without sending `close_notify`.
    pub(super) fn into_socket(self) -> TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => match *stream {
                TlsStream::Client(stream) => stream.into_inner().0,
                TlsStream::Server(stream) => stream.into_inner().0,
            },
        }
    }

    /// Returns the socket and the TLS session of a client.
    pub(super) fn into_client(self) -> (TcpStream, ClientConnection) {
        match self {
            Self::Tls(stream) => match *stream {
                TlsStream::Client(stream) => stream.into_inner(),
                TlsStream::Server(_) => panic!("a server"),
            },
            Self::Plain(_) => panic!("no TLS"),
        }
    }

    /// Holds back the last segment, so that the kernel sends it together with the FIN.
    pub(super) fn cork(&self) {
        let options = socket2::SockRef::from(self.socket());
        options.set_tcp_cork(true).unwrap();
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let sending = async {
            match self {
                Self::Plain(stream) => stream.write_all(bytes).await,
                Self::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        };
        within(DEADLINE, "sending", sending).await.unwrap();
    }

    /// Closes the sending direction: with `close_notify` and a FIN if there is TLS, otherwise with
    /// a FIN.
    pub(super) async fn finish(&mut self) {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
        }
        .unwrap();
    }

    /// Sends a FIN without `close_notify`.
    pub(super) fn truncate(self) -> TcpStream {
        let socket = self.into_socket();
        socket2::SockRef::from(&socket)
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        socket
    }

    pub(super) async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let reading = async {
            match self {
                Self::Plain(stream) => stream.read_exact(&mut bytes).await,
                Self::Tls(stream) => stream.read_exact(&mut bytes).await,
            }
        };
        within(DEADLINE, "reading", reading).await.unwrap();
        bytes
    }

    pub(super) async fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let (bytes, result) = self.try_read_to_end().await;
        (bytes, End::of(result))
    }

    /// Reads until an error occurs, and returns the error.
    pub(super) async fn read_error(&mut self) -> io::Error {
        self.try_read_to_end().await.1.unwrap_err()
    }

    async fn try_read_to_end(&mut self) -> (Vec<u8>, io::Result<usize>) {
        let mut bytes = Vec::new();
        let reading = async {
            match self {
                Self::Plain(stream) => stream.read_to_end(&mut bytes).await,
                Self::Tls(stream) => stream.read_to_end(&mut bytes).await,
            }
        };
        let result = within(DEADLINE, "the end", reading).await;
        (bytes, result)
    }
}

/// Decrypts all data that is still unread in the socket of a client.
pub(super) async fn decrypt_to_end(
    socket: &mut TcpStream,
    session: &mut ClientConnection,
) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let mut ciphertext = vec![0; 64 * 1024];
    loop {
        let reading = within(DEADLINE, "the end", socket.read(&mut ciphertext));
        let mut received = match reading.await {
            Ok(count) => &ciphertext[..count],
            Err(error) => return (bytes, End::of(Err(error))),
        };
        let is_end = received.is_empty();
        while is_end || !received.is_empty() {
            session.read_tls(&mut received).unwrap();
            session.process_new_packets().unwrap();
            match session.reader().read_to_end(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return (bytes, End::of(result)),
            }
        }
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Peer>>>>;

/// A balancer with a server for each transport, and listeners for each server, with and
/// without TLS and for each value of `on_truncation`.
pub(super) struct Rig {
    lb: Running,
    clients: HashMap<&'static str, TlsClient>,
    next: AtomicU64,
    waiting: Waiting,
    accepting: Vec<JoinHandle<()>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

impl Rig {
    /// `lines` are added to each listener.
    pub(super) async fn start(records: Records, lines: &[&str]) -> Self {
        let servers = Servers::new();
        let mut site = Site::new().records(records);
        servers.write(&site.dir);
        let (waiting, mut accepting) = (Waiting::default(), Vec::new());
        for transport in Transport::ALL {
            let name = transport.name();
            let listener = small_buffers([127, 0, 0, 1]).listen(64).unwrap();
            let address = listener.local_addr().unwrap();
            let tls = (transport != Transport::Plain).then(|| acceptor(&servers.cert(), transport));
            accepting.push(tokio::spawn(accept(listener, tls, Arc::clone(&waiting))));
            let upstream_tls = if transport == Transport::Plain {
                ""
            } else {
                MUTUAL
            };
            site = site.upstream(name, &[NO_PROBES, upstream_tls], &[entry("s", address, "")]);
            for policy in ["reset", "close"] {
                let upstream = format!("upstream = \"{name}\"");
                let policy_line = format!("on_truncation = \"{policy}\"");
                let mut all = vec![&*upstream, &*policy_line];
                all.extend(lines);
                site = site.listener(&format!("plain-{name}-{policy}"), &all);
                all.push(TLS);
                site = site.listener(&format!("tls-{name}-{policy}"), &all);
            }
        }
        let any = "plain\", \"tls12\", \"tls13";
        let lb = site
            .client("client1", &cn(CLIENT1), any, "")
            .client("local", "source = \"127.0.0.0/8\"", any, "")
            .start()
            .await;
        let client = lb.client(CLIENT1);
        Self {
            clients: HashMap::from([("tls12", client.clone().tls12()), ("tls13", client.tls13())]),
            lb,
            next: AtomicU64::new(1),
            waiting,
            accepting,
        }
    }

    /// Opens a connection through the balancer, and returns the client's side and the
    /// server's side.
    pub(super) async fn connect(
        &self,
        client: Transport,
        server: Transport,
        policy: &str,
    ) -> (Peer, Peer) {
        let kind = if client == Transport::Plain {
            "plain"
        } else {
            "tls"
        };
        let listener = format!("{kind}-{}-{policy}", server.name());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, accepted) = oneshot::channel();
        self.waiting.lock().unwrap().insert(number, sender);
        let connecting = async {
            // Each client has its own source address, because records are found by address
            // and the kernel reuses ports.
            let [.., high, low] = number.to_be_bytes();
            let socket = small_buffers([127, 1, high, low]);
            let socket = socket.connect(self.lb.address(&listener));
            let socket = socket.await.unwrap();
            socket.set_nodelay(true).unwrap();
            let mut peer = match self.clients.get(client.name()) {
                None => Peer::Plain(socket),
                Some(tls) => {
                    let stream = tls.handshake(socket, "localhost").await.unwrap();
                    Peer::Tls(Box::new(TlsStream::Client(stream)))
                }
            };
            peer.send(&number.to_be_bytes()).await;
            (peer, accepted.await.unwrap())
        };
        within(DEADLINE, "connecting", connecting).await
    }

    /// Waits for the access record of the client with this address.
    pub(super) async fn record(&self, source: SocketAddr) -> Value {
        let source = source.to_string();
        let matches = |record: &Value| record["source"] == source.as_str();
        self.lb.wait_record(matches, DEADLINE).await
    }

    /// Waits until the balancer has received this many bytes from the client.
    pub(super) async fn wait_received(&self, source: SocketAddr, count: usize) {
        // Add the 8 bytes of the number that identifies the connection.
        self.wait_bytes(source, "bytes_received", count + 8).await;
    }

    /// Waits until the balancer has sent this many bytes to the client.
    pub(super) async fn wait_sent(&self, source: SocketAddr, count: usize) {
        self.wait_bytes(source, "bytes_sent", count).await;
    }

    async fn wait_bytes(&self, source: SocketAddr, field: &str, count: usize) {
        let source = source.to_string();
        eventually(DEADLINE, || async {
            let (_, text) = self.lb.http_get("/api/v1/connections").await;
            let all: Value = serde_json::from_str(&text).unwrap();
            let all = all["connections"].as_array().unwrap();
            let ours = all.iter().find(|one| one["source"] == source.as_str());
            let bytes = ours.and_then(|one| one[field].as_u64());
            match bytes {
                Some(bytes) if bytes as usize == count => Ok(()),
                other => Err(format!("{other:?} of {count}")),
            }
        })
        .await
        .unwrap();
    }

    pub(super) async fn quiet(&self) {
        self.lb.quiet().await;
    }
}

fn small_buffers(address: [u8; 4]) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    socket.bind((address, 0).into()).unwrap();
    socket
}

fn acceptor(cert: &Cert, transport: Transport) -> TlsAcceptor {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[transport.version()])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(cert.resolver());
    TlsAcceptor::from(Arc::new(config))
}

/// Accepts connections, and passes each one to the test that waits for its number.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, waiting: Waiting) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (tls, waiting) = (tls.clone(), Arc::clone(&waiting));
        tokio::spawn(async move {
            socket.set_nodelay(true).unwrap();
            let mut peer = match tls {
                None => Peer::Plain(socket),
                Some(tls) => {
                    let stream = tls.accept(socket).await.unwrap();
                    Peer::Tls(Box::new(TlsStream::Server(stream)))
                }
            };
            let number = peer.read_exact(8).await.try_into().unwrap();
            let number = u64::from_be_bytes(number);
            let sender = waiting.lock().unwrap().remove(&number).unwrap();
            let _ = sender.send(peer);
        });
    }
}

/// How long a slow reader waits before it reads. By then, the balancer has processed the data
/// and the end of the stream.
pub(super) const LATE: Duration = Duration::from_millis(250);
