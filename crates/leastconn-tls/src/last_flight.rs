//! Which side sent the last flight of a handshake, and acknowledging the client's.

use tokio::net::TcpStream;

/// Who sent the last flight of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastFlight {
    /// This side: the segment carried the acknowledgement of the client's data.
    Sent,
    /// The client: the kernel may delay the acknowledgement.
    Received,
}

/// Sends the pending TCP acknowledgement of the client's last flight. The kernel would
/// delay it by 40 ms, and a client with Nagle's algorithm (no `TCP_NODELAY`) delays its
/// first message until then.
///
/// `TCP_QUICKACK` is not sticky: the kernel returns to delayed acknowledgements.
pub(super) fn acknowledge(socket: &TcpStream) {
    // An error costs only latency.
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
}
