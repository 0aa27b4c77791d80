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
/// delay the acknowledgement by 40 ms. A client without `TCP_NODELAY` would wait for the
/// acknowledgement before it sends its first message.
///
/// `TCP_QUICKACK` is not permanent: the kernel later returns to delayed acknowledgements on its
/// own.
pub(super) fn acknowledge(socket: &TcpStream) {
    // Ignore an error: its only consequence is the delay.
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
}
