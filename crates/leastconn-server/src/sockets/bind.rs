//! Binds TCP addresses and sets socket options.

use std::{io, net::SocketAddr, time::Duration};

use leastconn::net;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Length of the backlog. The kernel limits it further by `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4096;

/// How errors call the admin address.
pub(crate) const ADMIN_KEY: &str = "`[admin] bind`";

/// Listening on an address failed.
#[derive(Debug, thiserror::Error)]
#[error("{listener} cannot listen on {address}: {source}{}", hint(source))]
pub struct BindError {
    /// Name and kind, or the key of the admin address.
    listener: String,
    address: SocketAddr,
    source: io::Error,
}

impl BindError {
    pub(crate) fn new(listener: &str, address: SocketAddr, source: io::Error) -> Self {
        Self {
            listener: format!("listener `{listener}`"),
            address,
            source,
        }
    }

    /// The error for the admin address, which has no name in the configuration.
    pub(crate) fn of_admin(address: SocketAddr, source: io::Error) -> Self {
        Self {
            listener: ADMIN_KEY.to_owned(),
            address,
            source,
        }
    }

    /// Whether another socket uses the address.
    pub(crate) fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process uses it: `ss -ltnp` shows which)",
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need the capability CAP_NET_BIND_SERVICE)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// Listens on `address`. With `only_v6`, an IPv6 wildcard address does not accept IPv4
/// connections, because another listener has the IPv4 wildcard address.
///
/// # Errors
/// If the address cannot be bound.
pub fn bind(
    listener: &str,
    address: SocketAddr,
    only_v6: bool,
    keepalive: Option<Duration>,
) -> Result<std::net::TcpListener, BindError> {
    open(address, only_v6, keepalive).map_err(|source| BindError::new(listener, address, source))
}

/// Listens on the admin address.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) fn bind_admin(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    open(address, false, None).map_err(|source| BindError::of_admin(address, source))
}

fn open(
    address: SocketAddr,
    only_v6: bool,
    keepalive: Option<Duration>,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // Allow a restart while connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // On Linux, accepted sockets inherit this option, which saves a syscall for each of them.
    socket.set_tcp_nodelay(true)?;
    if let Some(idle) = keepalive {
        net::set_keepalive(&socket, idle)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options of an inherited listening socket, so that accepted sockets have the same
/// options as those accepted from a socket that this process opened.
///
/// # Errors
/// If an option cannot be set.
pub fn adopt(socket: &std::net::TcpListener, keepalive: Option<Duration>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let options = SockRef::from(socket);
    options.set_tcp_nodelay(true)?;
    match keepalive {
        Some(idle) => net::set_keepalive(socket, idle),
        None => options.set_keepalive(false),
    }
}
