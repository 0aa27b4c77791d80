//! Which side ended a handshake, and acknowledging the client's last flight.

use tokio::net::TcpStream;

/// Who sent the last flight of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastFlight {
    /// Ours carried the acknowledgement of what the client had sent.
    Sent,
    /// The client's, which the kernel acknowledges when it likes.
    Received,
}

/// Sends the pending TCP acknowledgement of the client's last flight now. The kernel
/// would delay it by 40 ms, and a client with Nagle's algorithm (no `TCP_NODELAY`)
/// holds its first message back until then.
///
/// `TCP_QUICKACK` is not sticky: the kernel returns to delayed acknowledgements.
pub(super) fn acknowledge(socket: &TcpStream) {
    // Only latency depends on it: not worth a connection.
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
}
