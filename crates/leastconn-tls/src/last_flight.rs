//! Which side sent the last flight of a handshake, and the TCP acknowledgement of the
//! client's last flight.

use tokio::net::TcpStream;

/// Which side sent the last flight of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastFlight {
    /// This side sent it. Its segment carried the acknowledgement of the client's data.
    Sent,
    /// The client sent it. The kernel may delay the acknowledgement.
    Received,
}

/// Sends the pending TCP acknowledgement of the client's last flight. The kernel would
/// delay it by 40 ms, and a client with Nagle's algorithm (without `TCP_NODELAY`) would
/// delay its first message until then.
///
/// `TCP_QUICKACK` is not permanent: the kernel returns to delayed acknowledgements by
/// itself.
pub(super) fn acknowledge(socket: &TcpStream) {
    // Ignore an error: it costs only latency.
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
}
