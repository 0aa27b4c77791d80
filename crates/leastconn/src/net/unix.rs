//! UNIX stream sockets, in place of TCP connections.
//!
//! A UNIX socket is carried in Tokio's `TcpStream`. All that the relay does with one
//! (reading, writing, ending one direction, splicing, waiting for readiness) is the same
//! for stream sockets of either family, and a type of its own would mean a branch for
//! each byte of TCP, or a second copy of the relay. What differs: it has no IP addresses
//! (`peer_addr` and `local_addr` fail), options of TCP do not apply to it, and it has no
//! reset: [`Stream::abort`](super::Stream::abort) shows as an orderly end.

use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    time::sleep,
};

/// How soon connecting is tried again while the server's backlog is full: the kernel
/// tells nobody when there is room.
const BACKLOG_IS_FULL: Duration = Duration::from_millis(10);

/// Connects to the UNIX socket at `path`. While its backlog is full, this waits.
///
/// # Errors
/// As `connect(2)`.
///
/// # Cancel safety
/// The connection is lost.
pub async fn connect_unix(path: &Path) -> io::Result<TcpStream> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return from_unix(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_IS_FULL).await,
            Err(error) => return Err(error),
        }
    }
}

/// Carries a UNIX socket in a `TcpStream`: see the head of this file for what that means.
///
/// # Errors
/// If it cannot be registered with the runtime.
pub fn from_unix(stream: UnixStream) -> io::Result<TcpStream> {
    let descriptor = OwnedFd::from(stream.into_std()?);
    TcpStream::from_std(std::net::TcpStream::from(descriptor))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;
    use crate::net::Stream;

    #[tokio::test]
    async fn bytes_and_half_closes_pass_both_ways() {
        let dir = leastconn_testkit::TempDir::new().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut near = connect_unix(&path).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let mut far = from_unix(far).unwrap();
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        far.write_all(b"answer").await.unwrap();
        far.abort();
        drop(far);
        text.clear();
        near.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
    }

    #[tokio::test]
    async fn connect_waits_while_the_backlog_is_full() {
        let dir = leastconn_testkit::TempDir::new().unwrap();
        let path = dir.path().join("s");
        let socket =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        socket.listen(0).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(socket.into()).unwrap();
        let _first = connect_unix(&path).await.unwrap();
        let second = connect_unix(&path);
        let accept = async {
            tokio::task::yield_now().await;
            listener.accept().await.unwrap()
        };
        let (second, _accepted) = tokio::join!(second, accept);
        second.unwrap();
        let missing = connect_unix(&dir.path().join("none")).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
