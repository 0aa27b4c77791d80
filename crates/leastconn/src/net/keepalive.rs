//! TCP keepalive: detects peers that have disappeared without closing the connection.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// Maximum interval between unanswered probes.
const INTERVAL: Duration = Duration::from_secs(10);
/// Number of unanswered probes after which the kernel closes the connection.
const PROBES: u32 = 3;

/// Enables TCP keepalive on `socket`. After `idle` (in whole seconds) without traffic from the
/// peer, the kernel sends three probes at intervals of ten seconds, or of `idle` if that is
/// shorter. If the peer answers none of them, the connection fails with `ETIMEDOUT`. On Linux,
/// accepted sockets inherit their listener's settings.
///
/// `TCP_USER_TIMEOUT` is not set, because it would also close connections whose peer works but
/// reads slowly.
///
/// # Errors
/// If `setsockopt` fails, for example because `socket` is not a TCP socket.
pub fn set_keepalive(socket: &impl AsFd, idle: Duration) -> io::Result<()> {
    // Linux accepts only values in this range.
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
        let settings = |socket: &std::net::TcpStream| {
            let socket = SockRef::from(socket);
            (
                socket.keepalive().unwrap(),
                socket.tcp_keepalive_time().unwrap(),
                socket.tcp_keepalive_interval().unwrap(),
                socket.tcp_keepalive_retries().unwrap(),
            )
        };
        let five = Duration::from_secs(5);
        assert_eq!(settings(&accepted), (true, five, five, 3));
        assert!(!settings(&client).0);
        set_keepalive(&client, Duration::MAX).unwrap();
        assert_eq!(settings(&client).1, Duration::from_secs(32_767));
    }
}
