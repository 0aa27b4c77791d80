//! Noticing that the other host is gone, although it never said so.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// Between two probes that are not answered, and at least before the first.
const INTERVAL: Duration = Duration::from_secs(10);
/// Probes without an answer that break the connection.
const PROBES: u32 = 3;

/// Makes the system probe the other side of a connection once nothing has come
/// from it for `idle`, in whole seconds: three probes ten seconds apart, or
/// `idle` apart if that is less. Without an answer the connection breaks. Set on
/// a listening socket, on Linux, it holds for what is accepted from it.
///
/// `TCP_USER_TIMEOUT` is left alone: it would also break a connection whose
/// reader is alive and only takes its time.
///
/// # Errors
/// If the system refuses, which it does for other sockets than TCP ones.
pub fn set_keepalive(socket: &impl AsFd, idle: Duration) -> io::Result<()> {
    // What Linux takes.
    let idle = Duration::from_secs(idle.as_secs().clamp(1, 32_767));
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(idle.min(INTERVAL))
        .with_retries(PROBES);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_keepalive() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        set_keepalive(&listener, Duration::from_secs(5)).unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let of = |socket: &std::net::TcpStream| {
            let socket = SockRef::from(socket);
            (
                socket.keepalive().unwrap(),
                socket.tcp_keepalive_time().unwrap(),
                socket.tcp_keepalive_interval().unwrap(),
                socket.tcp_keepalive_retries().unwrap(),
            )
        };
        let five = Duration::from_secs(5);
        assert_eq!(of(&accepted), (true, five, five, 3));
        assert!(!of(&client).0);
        set_keepalive(&client, Duration::MAX).unwrap();
        assert_eq!(of(&client).1, Duration::from_secs(32_767));
    }
}
