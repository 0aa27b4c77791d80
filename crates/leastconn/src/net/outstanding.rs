//! Counts the bytes written to a socket that the peer has not acknowledged.
//!
//! Linux reports this number through `SIOCOUTQ` and `TCP_INFO`, which have no safe wrapper, and
//! through `sock_diag` over netlink, which this module uses. Netlink may be unavailable, for
//! example because of a seccomp filter or a kernel without `tcp_diag`. In that case, the module
//! checks whether the socket is writable with the smallest send buffer; see [`is_sent`].

use tokio::net::TcpStream;

/// The data that a peer has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstanding {
    /// All data was acknowledged, or the connection no longer exists.
    Nothing,
    /// Number of unacknowledged bytes, counting a FIN as one. `u32::MAX` if the number is unknown.
    Bytes(u32),
}

#[cfg(target_os = "linux")]
pub(super) fn outstanding(socket: &TcpStream) -> Outstanding {
    // A socket without a peer address has been reset.
    let (Ok(local), Ok(peer)) = (socket.local_addr(), socket.peer_addr()) else {
        return Outstanding::Nothing;
    };
    match diag::write_queue(socket, local, peer) {
        Ok(0) => Outstanding::Nothing,
        Ok(count) => Outstanding::Bytes(count),
        Err(_) if is_sent(socket) => Outstanding::Nothing,
        Err(_) => Outstanding::Bytes(u32::MAX),
    }
}

/// Other operating systems do not provide this number.
#[cfg(not(target_os = "linux"))]
pub(super) fn outstanding(_: &TcpStream) -> Outstanding {
    Outstanding::Nothing
}

/// Whether all data was sent and acknowledged, except for at most one small segment.
///
/// A socket is writable if two conditions hold: its unsent bytes are below `TCP_NOTSENT_LOWAT`, and
/// its unacknowledged bytes occupy less than two thirds of the send buffer. Two thirds of the
/// smallest buffer hold less than two segments.
///
/// The function shrinks the send buffer permanently, so sending is slow afterwards. Do not call it
/// after `shutdown(SHUT_WR)`: the socket is then always writable.
#[cfg(target_os = "linux")]
fn is_sent(socket: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let options = socket2::SockRef::from(socket);
    let _ = options.set_tcp_notsent_lowat(1);
    let _ = options.set_send_buffer_size(0);
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let polled = poll(&mut fds, Some(&Timespec::default()));
    polled.is_err() || fds[0].revents().contains(PollFlags::OUT)
}

/// The kernel's socket diagnostics: `linux/inet_diag.h`.
#[cfg(target_os = "linux")]
mod diag {
    use std::{
        io,
        net::{IpAddr, SocketAddr},
    };

    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with, sockopt::socket_cookie,
    };
    use tokio::net::TcpStream;

    /// `struct nlmsghdr`.
    const HEADER: usize = 16;
    /// `struct nlmsghdr` and `struct inet_diag_req_v2`.
    const REQUEST: usize = HEADER + 56;
    /// `struct nlmsghdr` and `struct inet_diag_msg`.
    const ANSWER: usize = HEADER + 72;
    /// Offset of `idiag_wqueue` in the answer.
    const WRITE_QUEUE: usize = HEADER + 60;

    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const IPPROTO_TCP: u8 = 6;

    /// Returns the number of bytes, including a FIN, that the peer has not acknowledged.
    ///
    /// # Errors
    /// If the kernel does not answer or does not find the socket. The socket may be closed, or
    /// belong to another network namespace.
    pub(super) fn write_queue(
        socket: &TcpStream,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> io::Result<u32> {
        let request = request(local, peer, socket_cookie(socket)?);
        let netlink = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        send(&netlink, &request, SendFlags::empty())?;
        // By the time `send` returns, the kernel has queued the answer.
        let mut answer = [0; 512];
        let (length, _) = recv(&netlink, &mut answer, RecvFlags::DONTWAIT)?;
        parse(answer.get(..length).unwrap_or_default())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn request(local: SocketAddr, peer: SocketAddr, cookie: u64) -> [u8; REQUEST] {
        let (local_ip, peer_ip) = (local.ip().to_canonical(), peer.ip().to_canonical());
        let family = match local_ip {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let interface = match peer {
            SocketAddr::V6(peer) => peer.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let mut bytes = [0; REQUEST];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&(REQUEST as u32).to_ne_bytes());
        put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        put(&NLM_F_REQUEST.to_ne_bytes());
        // The sequence number and the kernel's netlink address, both zero.
        put(&[0; 8]);
        put(&[family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
        // Match a socket in any TCP state.
        put(&u32::MAX.to_ne_bytes());
        put(&local.port().to_be_bytes());
        put(&peer.port().to_be_bytes());
        put(&padded(local_ip));
        put(&padded(peer_ip));
        put(&interface.to_ne_bytes());
        // On every architecture, the kernel expects the low half first.
        put(&(cookie as u32).to_ne_bytes());
        put(&((cookie >> 32) as u32).to_ne_bytes());
        bytes
    }

    fn padded(ip: IpAddr) -> [u8; 16] {
        match ip {
            IpAddr::V6(ip) => ip.octets(),
            IpAddr::V4(ip) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&ip.octets());
                bytes
            }
        }
    }

    /// Returns the size of the write queue, or `None` if `answer` does not describe a socket.
    fn parse(answer: &[u8]) -> Option<u32> {
        let kind = u16::from_ne_bytes([*answer.get(4)?, *answer.get(5)?]);
        let field = answer.get(WRITE_QUEUE..)?.first_chunk()?;
        (kind == SOCK_DIAG_BY_FAMILY && answer.len() >= ANSWER).then(|| u32::from_ne_bytes(*field))
    }
}

#[cfg(test)]
mod tests;
