//! UNIX stream sockets as upstream connections.
//!
//! A UNIX socket is wrapped in Tokio's `TcpStream`. All operations of the relay (read, write,
//! shutdown, splice, readiness) work in the same way on stream sockets of both families. With a
//! separate type, every TCP read and write would need a branch, or the relay would have to be
//! compiled twice. There are three differences from TCP: `peer_addr` and `local_addr` fail, TCP
//! options do not apply, and a UNIX socket cannot be reset, so the peer sees
//! [`Stream::abort`](super::Stream::abort) as an orderly end.

use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    time::sleep,
};

/// Retry interval while the server's backlog is full. The kernel does not signal when there is room
/// again.
const BACKLOG_RETRY: Duration = Duration::from_millis(10);

/// Connects to the UNIX socket at `path`. Waits while its backlog is full.
///
/// # Errors
/// The same errors as `connect(2)`.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect_unix(path: &Path) -> io::Result<TcpStream> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return from_unix(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_RETRY).await,
            Err(error) => return Err(error),
        }
    }
}

/// Wraps a UNIX socket in a `TcpStream`. TCP options and addresses do not work on it.
///
/// # Errors
/// If the socket cannot be registered with the Tokio runtime.
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
