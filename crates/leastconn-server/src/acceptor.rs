//! Accepting connections: caps, and surviving a process that has run out of
//! file descriptors.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use leastconn::{
    Reason, ShortDuration,
    backoff::Backoff,
    net::{self, Stream},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use crate::{
    access_record::{Books, Record},
    connection,
    memory::Budget,
    registry::{Registry, UnixPeer},
    running::Running,
};

/// Connections that wait in the kernel to be accepted; it has its own limit,
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Clients in the backlog get so long at least, whatever `drain_timeout` is.
const LEAST_DRAIN: Duration = Duration::from_secs(2);

/// What all listeners of the process share.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Places for connections.
    pub connections: Arc<Semaphore>,
    /// Those that are open.
    pub registry: Arc<Registry>,
    /// Where they are accounted for.
    pub books: Books,
    /// What they need to know.
    pub running: Arc<Running>,
    /// Memory that they may use.
    pub memory: Arc<Budget>,
}

/// What the task at a socket is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Go on.
    Accept,
    /// End: another task, or another process, has the socket.
    HandOver,
    /// Take what has come already, and close the socket.
    Close,
}

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "listener `{listener}` cannot listen on {address}: {source}{}",
    hint(source)
)]
pub struct BindError {
    listener: String,
    address: SocketAddr,
    source: io::Error,
}

impl BindError {
    pub(crate) fn new(listener: &str, address: SocketAddr, source: io::Error) -> Self {
        Self {
            listener: listener.to_owned(),
            address,
            source,
        }
    }

    /// Whether somebody else has the address.
    pub(crate) fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process has it: `ss -ltnp` shows which)",
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need the capability CAP_NET_BIND_SERVICE)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// Listens on `address`. `only_v6` keeps an IPv6 wildcard from taking IPv4
/// connections too, for when another listener is there for those.
///
/// # Errors
/// If the address cannot be had.
pub fn bind(
    listener: &str,
    address: SocketAddr,
    only_v6: bool,
    keepalive: Option<Duration>,
) -> Result<std::net::TcpListener, BindError> {
    let open = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        // A restarted balancer must not wait for old connections to time out.
        socket.set_reuse_address(true)?;
        // On Linux, accepted sockets inherit it: no call for each of them.
        socket.set_tcp_nodelay(true)?;
        if let Some(idle) = keepalive {
            net::set_keepalive(&socket, idle)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| BindError::new(listener, address, source))
}

/// Makes a socket that somebody else listens at one of ours: what accepted sockets
/// have from it must not depend on who opened it.
///
/// # Errors
/// If the system refuses it.
pub fn adopt(socket: &std::net::TcpListener, keepalive: Option<Duration>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let options = SockRef::from(socket);
    options.set_tcp_nodelay(true)?;
    match keepalive {
        Some(idle) => net::set_keepalive(socket, idle),
        None => options.set_keepalive(false),
    }
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// An address.
    Tcp(SocketAddr),
    /// A process of this machine.
    Unix(UnixPeer),
}

/// A socket that connections are accepted from.
pub trait Incoming: Send + Sync + 'static {
    /// The next connection.
    ///
    /// # Cancel safety
    /// None is lost.
    fn next(&self) -> impl Future<Output = io::Result<(TcpStream, Origin)>> + Send;
}

impl Incoming for TcpListener {
    async fn next(&self) -> io::Result<(TcpStream, Origin)> {
        let (stream, source) = self.accept().await?;
        Ok((stream, Origin::Tcp(source)))
    }
}

impl Incoming for UnixListener {
    async fn next(&self) -> io::Result<(TcpStream, Origin)> {
        let (stream, _) = self.accept().await?;
        let credentials = stream.peer_cred()?;
        let peer = UnixPeer {
            pid: credentials.pid(),
            uid: credentials.uid(),
        };
        Ok((net::from_unix(stream)?, Origin::Unix(peer)))
    }
}

/// Accepts connections for `listener`, until told otherwise. Each gets the newest
/// configuration.
pub async fn accept(
    socket: Arc<impl Incoming>,
    listener: Arc<str>,
    gate: Gate,
    mut task: watch::Receiver<Task>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            // First: once it was told, what comes is somebody else's.
            biased;
            told = told(&mut task) => {
                if told == Task::Close {
                    let limit = gate.running.current().state.config.process.drain_timeout;
                    let rest = take_rest(&*socket, &listener, &gate);
                    if timeout(limit.max(LEAST_DRAIN), rest).await.is_err() {
                        tracing::warn!(listener = &*listener, "clients in the backlog were not accepted in time: the kernel resets them");
                    }
                }
                return;
            }
            accepted = socket.next() => accepted,
        };
        match accepted {
            Ok((stream, origin)) => {
                backoff.reset();
                start(stream, origin, &listener, &gate);
            }
            // The client was gone before it was its turn.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // No file descriptor, no memory: the connection stays in the
                // backlog, so asking again at once would spin.
                let delay = backoff.next_delay(net::random());
                tracing::warn!(listener = &*listener, %error, retry_in = %ShortDuration(delay), "cannot accept connections");
                // What it is told then is for the next round.
                let _ = timeout(delay, task.wait_for(|&task| task != Task::Accept)).await;
            }
        }
    }
}

/// Waits until told to do something else.
async fn told(task: &mut watch::Receiver<Task>) -> Task {
    let told = task.wait_for(|&task| task != Task::Accept).await;
    // Without a sender there is nobody left to accept for.
    told.map_or(Task::Close, |told| *told)
}

/// Accepts what is in the backlog already: closing the socket would reset those
/// clients, which believe that they are connected. Where accepting fails for want of
/// descriptors or memory, waits for some.
async fn take_rest(socket: &impl Incoming, listener: &str, gate: &Gate) {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
    let mut left = BACKLOG;
    while left > 0 {
        match timeout(Duration::ZERO, socket.next()).await {
            Ok(Ok((stream, origin))) => {
                backoff.reset();
                left -= 1;
                start(stream, origin, listener, gate);
            }
            Ok(Err(error)) if is_of_one_connection(&error) => left -= 1,
            Ok(Err(_)) => sleep(backoff.next_delay(net::random())).await,
            Err(_) => return,
        }
    }
}

/// Whether accepting failed because of the one that came, which is gone.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

fn start(mut stream: TcpStream, origin: Origin, listener: &str, gate: &Gate) {
    let now = net::now();
    let Some(listener) = gate.running.listener(listener) else {
        // Listeners that are gone are kept until their tasks have ended.
        tracing::error!(listener, "a connection to a listener that does not exist");
        return;
    };
    let (name, metrics) = (Arc::clone(&listener.name), Arc::clone(&listener.metrics));
    let source = match origin {
        Origin::Tcp(source) => source,
        Origin::Unix(_) => UnixPeer::ADDRESS,
    };
    let live = gate.registry.register(name, metrics, source, now);
    if let Origin::Unix(peer) = origin {
        live.came_from(peer);
    }
    let mut record = Record::open(gate.books.clone(), Arc::clone(&listener.metrics), live, now);
    // Before a place is taken, and before anything is read: this is what a flood
    // must be cheap for.
    // Where others announce clients, it is not known yet whom it counts against.
    if listener.senders.is_none()
        && let Err(error) = listener.admit_source(source.ip(), now)
    {
        record.end(error.reason(), Some(&error.to_string()));
        // A reset leaves nothing behind: neither a state of the socket here, nor a
        // client that takes it for a short answer.
        stream.abort();
        return;
    }
    gate.memory.accepted();
    if gate.memory.is_over() {
        let detail = "the memory limit is reached (`memory_limit`)";
        record.end(Reason::Overloaded, Some(detail));
        return;
    }
    let Ok(place) = Arc::clone(&gate.connections).try_acquire_owned() else {
        record.end(
            Reason::Overloaded,
            Some("the process has as many connections open as it may"),
        );
        return;
    };
    let running = Arc::clone(&gate.running);
    tokio::spawn(async move {
        connection::serve(stream, now, listener, running, record).await;
        drop(place);
    });
}
