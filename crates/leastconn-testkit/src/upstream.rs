//! Upstream servers with a configurable [`Behaviour`].

mod behaviour;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, SupportedProtocolVersion};
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::DEADLINE;
use crate::pki::{Cert, TestCa};
pub use behaviour::Behaviour;

const BACKLOG: u32 = 4096;

/// What happens to open connections when a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenConnections {
    /// Open connections and connections that wait in the queue of the listener are served. New
    /// connections are refused.
    Keep,
    /// Open connections are closed, as if the process had been killed.
    Close,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    accepted: u64,
    open: usize,
}

/// A server on a loopback port. Stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    name: String,
    state: Arc<State>,
    accepting: Mutex<Option<Accepting>>,
    /// A socket that is bound and never listens. The socket reserves the port while the server
    /// is stopped.
    _reservation: TcpSocket,
}

#[derive(Debug)]
struct State {
    behaviour: Mutex<Behaviour>,
    counts: watch::Sender<Counts>,
    tls: Option<TlsAcceptorDebug>,
}

#[derive(Clone)]
struct TlsAcceptorDebug(TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

#[derive(Debug)]
struct Accepting {
    /// Ends the task in order, with all connections accepted that wait in the queue.
    stop: oneshot::Sender<()>,
    listener: JoinHandle<()>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Upstream {
    /// Starts a server on 127.0.0.1.
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::launch(behaviour, None)
    }

    /// Starts `Behaviour::Named(name)`.
    pub async fn named(name: &str) -> Self {
        Self::start(Behaviour::Named(name.to_owned())).await
    }

    /// Starts a TLS server with `cert`. With `client_ca`, it requires a client
    /// certificate issued by that CA.
    pub async fn start_tls(behaviour: Behaviour, cert: &Cert, client_ca: Option<&TestCa>) -> Self {
        Self::start_tls_versions(behaviour, cert, client_ca, rustls::ALL_VERSIONS).await
    }

    /// As [`Self::start_tls`], for these TLS versions only.
    pub async fn start_tls_versions(
        behaviour: Behaviour,
        cert: &Cert,
        client_ca: Option<&TestCa>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(ca.cert().der().clone()).unwrap();
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    provider,
                );
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let config = builder.with_cert_resolver(cert.resolver());
        Self::launch(behaviour, Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn launch(behaviour: Behaviour, tls: Option<TlsAcceptor>) -> Self {
        let reservation = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let addr = reservation.local_addr().unwrap();
        let listener = bind(addr).unwrap().listen(BACKLOG).unwrap();
        let name = match &behaviour {
            Behaviour::Named(name) => name.clone(),
            _ => addr.to_string(),
        };
        let state = Arc::new(State {
            behaviour: Mutex::new(behaviour),
            counts: watch::Sender::default(),
            tls: tls.map(TlsAcceptorDebug),
        });
        let accepting = Mutex::new(Some(accept(listener, Arc::clone(&state))));
        Self {
            addr,
            name,
            state,
            accepting,
            _reservation: reservation,
        }
    }

    /// The address of the server. It is valid even while the server is stopped.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The name in [`Behaviour::Named`], or the address for other behaviours.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of connections accepted so far, including connections before restarts.
    pub fn accepted(&self) -> u64 {
        self.state.counts.borrow().accepted
    }

    pub fn open(&self) -> usize {
        self.state.counts.borrow().open
    }

    /// Waits until exactly `n` connections are open.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn wait_open(&self, n: usize) {
        let what = format!("{n} connections open at {}", self.name);
        self.wait(&what, |counts| counts.open == n).await;
    }

    /// Waits until at least `n` connections have been accepted.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn wait_accepted(&self, n: u64) {
        let what = format!("{n} connections accepted at {}", self.name);
        self.wait(&what, |counts| counts.accepted >= n).await;
    }

    async fn wait(&self, what: &str, done: impl Fn(&Counts) -> bool) {
        let mut counts = self.state.counts.subscribe();
        let wait = async {
            counts.wait_for(done).await.unwrap();
        };
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            panic!(
                "{what}: not within {DEADLINE:?}, but {:?}",
                *self.state.counts.borrow()
            );
        }
    }

    /// Sets the behaviour of new connections.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    /// Closes the listener. Once this returns, new connections are refused.
    pub async fn stop(&self, open: OpenConnections) {
        let Some(accepting) = self.accepting.lock().unwrap().take() else {
            return;
        };
        match open {
            OpenConnections::Keep => drop(accepting.stop),
            OpenConnections::Close => accepting.listener.abort(),
        }
        let _ = accepting.listener.await;
        let mut connections = std::mem::take(&mut *accepting.connections.lock().unwrap());
        match open {
            OpenConnections::Keep => connections.detach_all(),
            OpenConnections::Close => connections.shutdown().await,
        }
    }

    /// Listens again at the same address.
    ///
    /// # Panics
    /// If the server is running.
    pub async fn restart(&self) {
        let mut accepting = self.accepting.lock().unwrap();
        assert!(accepting.is_none(), "{} is running", self.name);
        let listener = bind(self.addr).unwrap().listen(BACKLOG).unwrap();
        *accepting = Some(accept(listener, Arc::clone(&self.state)));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Dropping the `JoinSet` aborts the connections.
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.listener.abort();
        }
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // `SO_REUSEADDR` is needed because the reservation, and closed connections in TIME_WAIT,
    // use the same port.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Counts a connection as open until it is dropped.
struct OpenGuard(Arc<State>);

impl OpenGuard {
    fn new(state: Arc<State>) -> Self {
        state.counts.send_modify(|counts| {
            counts.accepted += 1;
            counts.open += 1;
        });
        Self(state)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

fn accept(listener: TcpListener, state: Arc<State>) -> Accepting {
    let connections = Arc::new(Mutex::new(JoinSet::new()));
    let set = Arc::clone(&connections);
    let (stop, mut stopped) = oneshot::channel();
    let listener = tokio::spawn(async move {
        let serve = |stream| {
            let guard = OpenGuard::new(Arc::clone(&state));
            let behaviour = state.behaviour.lock().unwrap().clone();
            let tls = state.tls.clone();
            let mut set = set.lock().unwrap();
            while set.try_join_next().is_some() {}
            set.spawn(async move {
                // Ignore errors: they are caused by the client, or intended by the
                // behaviour.
                let _ = behaviour.serve(stream, tls.map(|tls| tls.0)).await;
                drop(guard);
            });
        };
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => serve(stream),
                    Err(_) => return,
                },
                _ = &mut stopped => break,
            }
        }
        for stream in accept_queued(&listener.into_std().unwrap()).unwrap() {
            serve(stream);
        }
    });
    Accepting {
        stop,
        listener,
        connections,
    }
}

/// Closing a listener resets the connections in its queue, which were successful for the
/// clients. Accepts them, and lets no other connection into the queue.
fn accept_queued(listener: &std::net::TcpListener) -> io::Result<Vec<TcpStream>> {
    // `BPF_RET | BPF_K` with 0: drops all packets. The client sends its SYN again, and gets a
    // reset after the listener is closed.
    SockRef::from(listener).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
    let mut queued = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        queued.push(TcpStream::from_std(stream)?);
    }
    Ok(queued)
}
