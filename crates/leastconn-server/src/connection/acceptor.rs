//! Accepting connections: limits, and recovery when the process has run out of file
//! descriptors.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use leastconn::{
    ShortDuration,
    backoff::Backoff,
    net::{self, Stream},
};
use rustix::{
    io::Errno,
    net::{SocketFlags, accept_with, acceptfrom_with},
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::coop::consume_budget,
    time::{sleep, timeout},
};

use super::{access_record::AccessRecord, serve};
use crate::{context::ServerContext, reason_code::ReasonCode, registry::UnixPeer};

/// Maximum number of connections accepted from the backlog when a socket is closed.
const MAX_LEFTOVER: u32 = 4096;

/// Minimum time for accepting the backlog when a socket is closed, even if `drain_timeout` is
/// shorter.
const MIN_DRAIN: Duration = Duration::from_secs(2);

/// Flags of accepted sockets, as Tokio sets them.
const ACCEPT_FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Command for the accept loop of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptCommand {
    Accept,
    /// Stop accepting: another task or another process now accepts from the socket.
    HandOver,
    /// Accept the connections in the backlog, then close the socket.
    Close,
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    Tcp(SocketAddr),
    Unix(UnixPeer),
}

/// A listening socket.
pub trait Incoming: Send + Sync + 'static {
    /// Accepts the next connection.
    ///
    /// # Cancel safety
    /// Cancel safe: no connection is lost.
    fn next(&self) -> impl Future<Output = io::Result<(TcpStream, Origin)>> + Send;

    /// Accepts a connection from the backlog, even if Tokio has not been notified of it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the backlog is empty.
    fn try_next(&self) -> io::Result<(TcpStream, Origin)>;
}

impl Incoming for TcpListener {
    async fn next(&self) -> io::Result<(TcpStream, Origin)> {
        let (stream, source) = self.accept().await?;
        Ok((stream, Origin::Tcp(source)))
    }

    fn try_next(&self) -> io::Result<(TcpStream, Origin)> {
        let (descriptor, source) = acceptfrom_with(self, ACCEPT_FLAGS)?;
        let source = source.ok_or(Errno::CONNABORTED)?;
        let stream = TcpStream::from_std(std::net::TcpStream::from(descriptor))?;
        Ok((stream, Origin::Tcp(source.try_into()?)))
    }
}

impl Incoming for UnixListener {
    async fn next(&self) -> io::Result<(TcpStream, Origin)> {
        let (stream, _) = self.accept().await?;
        from_unix(stream)
    }

    fn try_next(&self) -> io::Result<(TcpStream, Origin)> {
        let descriptor = accept_with(self, ACCEPT_FLAGS)?;
        from_unix(UnixStream::from_std(descriptor.into())?)
    }
}

fn from_unix(stream: UnixStream) -> io::Result<(TcpStream, Origin)> {
    let credentials = stream.peer_cred()?;
    let peer = UnixPeer {
        pid: credentials.pid(),
        uid: credentials.uid(),
    };
    Ok((net::from_unix(stream)?, Origin::Unix(peer)))
}

/// Accepts connections for `listener` until `command` changes.
pub async fn accept_loop(
    socket: Arc<impl Incoming>,
    listener: Arc<str>,
    context: Arc<ServerContext>,
    mut command: watch::Receiver<AcceptCommand>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            // Poll for commands first: after `HandOver`, new connections belong to another task.
            biased;
            command = next_command(&mut command) => {
                if command == AcceptCommand::Close {
                    let limit = context.snapshot().config.process.drain_timeout;
                    let rest = accept_backlog(&*socket, &listener, &context);
                    if timeout(limit.max(MIN_DRAIN), rest).await.is_err() {
                        tracing::warn!(listener = &*listener, "connections in the backlog were not accepted in time: the kernel resets them");
                    }
                }
                return;
            }
            accepted = socket.next() => accepted,
        };
        match accepted {
            Ok((stream, origin)) => {
                backoff.reset();
                start(stream, origin, &listener, &context);
            }
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                // The process has no free file descriptor or no memory. The connection stays in the
                // backlog, so retrying immediately would spin.
                let delay = backoff.next_delay(net::random());
                tracing::warn!(listener = &*listener, %error, retry_in = %ShortDuration(delay), "cannot accept connections");
                // A command that arrives during the delay is handled in the next iteration.
                let changed = command.wait_for(|&command| command != AcceptCommand::Accept);
                let _ = timeout(delay, changed).await;
            }
        }
    }
}

/// Waits for a command other than `Accept`.
async fn next_command(command: &mut watch::Receiver<AcceptCommand>) -> AcceptCommand {
    let next = command
        .wait_for(|&command| command != AcceptCommand::Accept)
        .await;
    // A dropped sender means that the server is gone.
    next.map_or(AcceptCommand::Close, |command| *command)
}

/// Accepts the connections in the backlog. They are already established, and closing the socket
/// would reset them. If the process is out of descriptors or memory, waits and tries again.
async fn accept_backlog(socket: &impl Incoming, listener: &str, context: &Arc<ServerContext>) {
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
    let mut left = MAX_LEFTOVER;
    while left > 0 {
        match socket.try_next() {
            Ok((stream, origin)) => {
                backoff.reset();
                left -= 1;
                start(stream, origin, listener, context);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if is_connection_error(&error) => left -= 1,
            Err(_) => sleep(backoff.next_delay(net::random())).await,
        }
        consume_budget().await;
    }
}

/// Whether accepting failed because of the connection itself, so that the next one can be accepted
/// immediately. Linux also reports network errors of the new connection; see `accept(2)`.
pub(crate) fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::CONNREFUSED
                | Errno::INTR
                | Errno::TIMEDOUT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
        )
    )
}

/// Registers an accepted socket, checks the limits of the process, and spawns its task.
fn start(mut stream: TcpStream, origin: Origin, listener: &str, context: &Arc<ServerContext>) {
    let accepted_at = net::now();
    let snapshot = context.snapshots.load();
    let Some(listener) = snapshot.listener(listener).map(Arc::clone) else {
        // Reaching this line is a bug: a removed listener is kept until its accept loops have ended.
        tracing::error!(listener, "connection to an unknown listener");
        return;
    };
    let source = match origin {
        Origin::Tcp(source) => source,
        Origin::Unix(_) => UnixPeer::ADDRESS,
    };
    let (name, metrics) = (Arc::clone(&listener.name), Arc::clone(&listener.metrics));
    let guard = context
        .registry
        .register(name, metrics, source, accepted_at);
    if let Origin::Unix(peer) = origin {
        guard.set_unix(peer);
    }
    let telemetry = Arc::clone(&context.telemetry);
    let metrics = Arc::clone(&listener.metrics);
    let mut record = AccessRecord::open(telemetry, metrics, guard, accepted_at);
    // Check the rate before taking a slot and reading from the socket, so that rejecting a flood
    // is cheap. Behind a trusted proxy, the client's address is not known yet.
    if listener.trusted_proxies.is_none()
        && let Err(error) = listener.check_source_rate(source.ip(), accepted_at)
    {
        record.end(error.reason(), Some(&error.to_string()));
        // A reset leaves no TIME_WAIT state, and no client mistakes it for an empty response.
        stream.abort();
        return;
    }
    context.memory.connection_accepted();
    if context.memory.is_exceeded() {
        let detail = "the memory limit is reached (`memory_limit`)";
        record.end(ReasonCode::Overloaded, Some(detail));
        return;
    }
    let Some(slot) = context.slots.try_acquire() else {
        let limit = context.slots.max();
        let process = &snapshot.config.process;
        let is_configured = process
            .max_connections
            .is_some_and(|max| max.get() == limit);
        if context.slots.refused(accepted_at) {
            let reason = if is_configured {
                "max_connections"
            } else {
                "limit on open files (LimitNOFILE)"
            };
            tracing::warn!(
                limit,
                reason,
                "connection limit reached: refusing connections"
            );
        }
        let detail = if is_configured {
            "the connection limit of the process is reached (`max_connections`)".to_owned()
        } else {
            format!(
                "the connection limit of the process is reached: {limit}, as many as the limit on open \
                 files allows (`LimitNOFILE`)"
            )
        };
        record.end(ReasonCode::Overloaded, Some(&detail));
        return;
    };
    let context = Arc::clone(context);
    tokio::spawn(serve(stream, snapshot, listener, context, record, slot));
}

#[cfg(test)]
mod tests;
