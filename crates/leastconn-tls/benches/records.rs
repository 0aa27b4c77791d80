//! Compares the cost of TLS records in rustls' record layer and in ours:
//! `cargo bench -p leastconn-tls --bench records [-- --rounds=N] [--work=Upload]`.
//!
//! One thread relays between a TLS client and a plain server, which run on other threads. Only the
//! CPU time of the relaying thread is measured. Compare only figures from the same run.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use leastconn::net::{RelayPolicy, Traffic, relay};
use leastconn_testkit::TestCa;
use leastconn_tls::{self as tls, permit::Unscheduled};
use peak_alloc::PeakAlloc;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::ServerName,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const BULK: usize = 256 << 20;
const ECHOES: usize = 10_000;
const HANDSHAKES: usize = 500;
const IDLE: usize = 2_000;

type Client = StreamOwned<ClientConnection, TcpStream>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    Upload,
    Download,
    Echo,
    Handshake,
}

struct Setup {
    server: [Arc<ServerConfig>; 2],
    client: Arc<ClientConfig>,
}

fn setup() -> Setup {
    let ca = TestCa::new("bench");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone().into(), Arc::clone(&provider))
            .build()
            .unwrap();
    let cert = ca.server(&["localhost"]);
    let server = [false, true].map(|own| {
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_single_cert(cert.chain_der.clone(), cert.key_der.clone_key())
            .unwrap();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = own;
        Arc::new(server)
    });
    let leaf = ca.leaf("client").build();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(leaf.chain_der.clone(), leaf.key_der.clone_key())
        .unwrap();
    Setup {
        server,
        client: Arc::new(client),
    }
}

fn connect(setup: &Setup, address: SocketAddr) -> Client {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut session = ClientConnection::new(Arc::clone(&setup.client), name).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket).unwrap();
    }
    session.set_buffer_limit(Some(256 << 10));
    StreamOwned::new(session, socket)
}

/// CPU time of this thread, in nanoseconds.
fn cpu_time() -> u64 {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    line.split(' ').next().unwrap().parse().unwrap()
}

async fn accept(listener: &tokio::net::TcpListener, config: &Arc<ServerConfig>) -> tls::TlsStream {
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.set_nodelay(true).unwrap();
    let hello = tls::read_hello(&mut socket, &mut Vec::new())
        .await
        .map_err(|e| e.to_string());
    let accepted = tls::accept(
        socket,
        hello.unwrap(),
        &Arc::clone(config).into(),
        &Unscheduled,
    )
    .await;
    accepted.map_err(|(error, _)| error.to_string()).unwrap()
}

/// Starts the balancer thread, which returns the relay's CPU time in nanoseconds.
fn balancer(
    listener: TcpListener,
    upstream: SocketAddr,
    config: Arc<ServerConfig>,
) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut down = accept(&listener, &config).await;
            drop(down.take_peer_chain());
            let mut up = tokio::net::TcpStream::connect(upstream).await.unwrap();
            up.set_nodelay(true).unwrap();
            let start = cpu_time();
            relay(
                &mut down,
                &mut up,
                &RelayPolicy::default(),
                &Traffic::default(),
            )
            .await;
            cpu_time() - start
        })
    })
}

fn send_all(to: &mut impl Write) {
    let chunk = vec![7; 128 << 10];
    for _ in 0..BULK / chunk.len() {
        to.write_all(&chunk).unwrap();
    }
}

fn receive_all(from: &mut impl Read) -> usize {
    let mut chunk = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match from.read(&mut chunk).unwrap() {
            0 => return total,
            count => total += count,
        }
    }
}

/// CPU time of the balancer thread, in nanoseconds per KiB or per echo.
fn run(setup: &Setup, own: bool, work: Work) -> f64 {
    if work == Work::Handshake {
        return handshake(setup, own);
    }
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = front.local_addr().unwrap();
    let back = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = back.local_addr().unwrap();
    let config = Arc::clone(&setup.server[usize::from(own)]);
    let balancer = balancer(front, upstream, config);
    let server = thread::spawn(move || {
        let (mut socket, _) = back.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        match work {
            Work::Upload => assert_eq!(receive_all(&mut socket), BULK),
            Work::Download => send_all(&mut socket),
            Work::Echo | Work::Handshake => {
                let mut ping = [0; 64];
                for _ in 0..ECHOES {
                    socket.read_exact(&mut ping).unwrap();
                    socket.write_all(&ping).unwrap();
                }
            }
        }
    });
    let mut client = connect(setup, address);
    match work {
        Work::Upload => send_all(&mut client),
        Work::Download => {
            client.conn.send_close_notify();
            client.flush().unwrap();
            assert_eq!(receive_all(&mut client), BULK);
        }
        Work::Echo | Work::Handshake => {
            let mut ping = [0; 64];
            for _ in 0..ECHOES {
                client.write_all(&ping).unwrap();
                client.flush().unwrap();
                client.read_exact(&mut ping).unwrap();
            }
        }
    }
    client.conn.send_close_notify();
    client.flush().unwrap();
    server.join().unwrap();
    drop(client);
    let nanoseconds = balancer.join().unwrap() as f64;
    match work {
        Work::Upload | Work::Download => nanoseconds / (BULK >> 10) as f64,
        Work::Echo | Work::Handshake => nanoseconds / ECHOES as f64,
    }
}

fn resident() -> usize {
    let line = std::fs::read_to_string("/proc/self/statm").unwrap();
    line.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Bytes per idle connection: memory allocated by Rust, and resident memory, which also includes
/// the cipher state.
fn idle(setup: &Setup, own: bool) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = front.local_addr().unwrap();
    front.set_nonblocking(true).unwrap();
    let config = Arc::clone(&setup.server[usize::from(own)]);
    // Server streams, and client sockets that keep the connections open.
    let mut streams = Vec::with_capacity(IDLE + 50);
    let mut sockets = Vec::with_capacity(IDLE + 50);
    let mut before = (0, 0);
    thread::scope(|scope| {
        let (request, requests) = std::sync::mpsc::sync_channel(1);
        let (answer, answers) = std::sync::mpsc::sync_channel(1);
        scope.spawn(move || {
            while requests.recv().is_ok() {
                answer.send(connect(setup, address).into_parts().1).unwrap();
            }
        });
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(front).unwrap();
            for number in 0..IDLE + 50 {
                if number == 50 {
                    before = (HEAP.current_usage(), resident());
                }
                request.send(()).unwrap();
                let mut stream = accept(&listener, &config).await;
                drop(stream.take_peer_chain());
                // Poll for reading, as for an idle connection.
                let mut byte = [0; 16];
                let waiting = std::future::poll_fn(|cx| {
                    let mut buffer = tokio::io::ReadBuf::new(&mut byte);
                    let read = tokio::io::AsyncRead::poll_read(
                        std::pin::Pin::new(&mut stream),
                        cx,
                        &mut buffer,
                    );
                    std::task::Poll::Ready(read.is_pending())
                });
                assert!(waiting.await);
                streams.push(stream);
                sockets.push(answers.recv().unwrap());
            }
        });
        drop(request);
        let each = |after: usize, before: usize| (after as f64 - before as f64) / IDLE as f64;
        (
            each(HEAP.current_usage(), before.0),
            each(resident(), before.1),
        )
    })
}

/// CPU time of the server side of a handshake, in nanoseconds.
fn handshake(setup: &Setup, own: bool) -> f64 {
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = front.local_addr().unwrap();
    front.set_nonblocking(true).unwrap();
    let config = Arc::clone(&setup.server[usize::from(own)]);
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(front).unwrap();
            let start = cpu_time();
            for _ in 0..HANDSHAKES {
                drop(accept(&listener, &config).await);
            }
            cpu_time() - start
        })
    });
    for _ in 0..HANDSHAKES {
        drop(connect(setup, address));
    }
    server.join().unwrap() as f64 / HANDSHAKES as f64
}

fn main() {
    let setup = setup();
    let argument = |name: &str| {
        std::env::args().find_map(|argument| argument.strip_prefix(name).map(str::to_owned))
    };
    if let Some(own) = argument("--idle=").and_then(|own| own.parse().ok()) {
        // Use separate processes, so that memory freed by one run does not affect the other.
        let (heap, resident) = idle(&setup, own);
        println!("idle own={own}: {heap:.0} B heap, {resident:.0} B resident");
        return;
    }
    let rounds = argument("--rounds=")
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(5_usize);
    let only = argument("--work=");
    for work in [Work::Upload, Work::Download, Work::Echo, Work::Handshake] {
        if only
            .as_ref()
            .is_some_and(|only| *only != format!("{work:?}"))
        {
            continue;
        }
        let mut figures = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for own in [false, true] {
                figures[usize::from(own)].push(run(&setup, own, work));
            }
        }
        let ratios: Vec<f64> = figures[1]
            .iter()
            .zip(&figures[0])
            .map(|(o, r)| o / r)
            .collect();
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{work:?}: rustls {:.0}, own {:.0}, ratio {:.3} ({ratios:.2?})",
            median(&mut figures[0]),
            median(&mut figures[1]),
            median(&mut ratios.clone()),
        );
    }
    for own in ["false", "true"] {
        if only.is_some() {
            break;
        }
        let itself = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(itself);
        child.arg(format!("--idle={own}")).status().unwrap();
    }
}
