//! Dials one server: resolves its name and connects to its addresses.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
    time::{timeout, timeout_at},
};

use super::ConnectPolicy;
use crate::{
    Address, Server,
    deadline::after,
    net::{
        Prepare, Stream,
        connect_fault::ConnectFault,
        keepalive::set_keepalive,
        now,
        resolve::{invalidate, resolve},
        unix::connect_unix,
    },
};

/// Connects to one server. Tries all of its addresses within the time limit of the attempt.
pub(super) async fn dial<P: Prepare>(
    server: &Server,
    policy: &ConnectPolicy,
    step: &P,
) -> io::Result<P::Stream> {
    let deadline = after(now(), policy.timeout);
    let resolving = resolve(&server.addresses, server.address(), now());
    // The inner timeouts together limit the whole attempt. An outer timeout would only add cost.
    let result = match timeout_at(deadline.into(), resolving).await {
        Ok(Ok(addresses)) => {
            let dialer = Dialer {
                server,
                keepalive: policy.keepalive,
                step,
            };
            dialer.any(&addresses, deadline).await
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(timed_out()),
    };
    if result
        .as_ref()
        .is_err_and(|error| ConnectFault::of(error) == ConnectFault::Server)
    {
        invalidate(&server.addresses, server.address(), now());
    }
    result
}

/// Connects to one server for a check. If `port` is set, uses this port at the server's addresses.
/// The server's health does not change.
pub(in crate::net) async fn dial_for_check<P: Prepare>(
    server: &Server,
    port: Option<u16>,
    step: &P,
    deadline: Instant,
) -> io::Result<P::Stream> {
    let resolved = resolve(&server.addresses, server.address(), now()).await?;
    let mut addresses = resolved.to_vec();
    if let Some(port) = port {
        for address in &mut addresses {
            address.set_port(port);
        }
    }
    let dialer = Dialer {
        server,
        keepalive: None,
        step,
    };
    dialer.any(&addresses, deadline).await
}

/// Opens connections to the addresses of one server.
pub(super) struct Dialer<'a, P> {
    pub(super) server: &'a Server,
    pub(super) keepalive: Option<Duration>,
    pub(super) step: &'a P,
}

impl<P: Prepare> Dialer<'_, P> {
    /// Connects to the first address that answers. The remaining time is divided among the
    /// remaining addresses, so that an address that does not answer leaves time for the next ones.
    pub(super) async fn any(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> io::Result<P::Stream> {
        if let Address::Unix(path) = self.server.address() {
            let connected = timeout_at(deadline.into(), self.unix(path)).await;
            return connected.unwrap_or_else(|_| Err(timed_out()));
        }
        let mut failure = None;
        for (position, &address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(now());
            let others = u32::try_from(addresses.len() - position).unwrap_or(u32::MAX);
            // This timeout covers both connecting and preparing.
            let error = match timeout(left / others, self.one(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => timed_out(),
            };
            if ConnectFault::of(&error) == ConnectFault::Exhausted {
                return Err(error);
            }
            failure = Some(more_specific(failure, error));
        }
        Err(failure
            .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }

    async fn unix(&self, path: &Path) -> io::Result<P::Stream> {
        let stream = connect_unix(path).await?;
        self.step.prepare(stream, self.server).await
    }

    async fn one(&self, address: SocketAddr) -> io::Result<P::Stream> {
        let stream = open(address).await?;
        if let Some(idle) = self.keepalive
            && let Err(error) = set_keepalive(&stream, idle)
        {
            // This error is not fatal. If the connection was reset, a later read or write reports
            // that.
            tracing::debug!(server = %self.server.id(), %error, "failed to enable TCP keepalive");
        }
        self.step.prepare(stream, self.server).await
    }
}

/// Chooses which error to report. A server error (`127.0.0.1` refused the connection) is preferred
/// to an error of this host (`::1` is unreachable because the host has no IPv6).
pub(super) fn more_specific(earlier: Option<io::Error>, later: io::Error) -> io::Error {
    match earlier {
        Some(earlier) if ConnectFault::of(&later) == ConnectFault::Local => earlier,
        _ => later,
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = dialling(address).await?;
    // If no program listens on a local port in the ephemeral range, the kernel may choose that same
    // port as the source port. The socket then connects to itself (TCP simultaneous open).
    if stream.local_addr()? == address {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "the connection reached itself: no program listens on this port",
        ));
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects like [`TcpStream::connect`]. If the future is dropped after the server has accepted the
/// connection, the server gets a RST. A FIN would look like a client that has finished sending.
pub(super) async fn dialling(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let mut dialling = Dialling(Some(TcpStream::from_std(socket.into())?));
    let mut ready = Ready::EMPTY;
    if let Some(stream) = &dialling.0 {
        ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    }
    let stream = dialling.0.take();
    let stream = stream.ok_or_else(|| io::Error::other("no socket"))?;
    // A socket that failed to connect reports an error or its closing together with its
    // readiness. Reading the error of a connected socket would only cost a system call.
    if (ready.is_error() || ready.is_write_closed())
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

/// A socket that is being connected.
struct Dialling(Option<TcpStream>);

impl Drop for Dialling {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            stream.abort();
        }
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}
