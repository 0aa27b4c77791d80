use std::os::unix;

use super::*;

/// The connections are accepted even though Tokio has not polled the socket since they arrived.
#[tokio::test]
async fn backlog_is_accepted_without_waiting() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    let clients: Vec<_> = (0..3)
        .map(|_| std::net::TcpStream::connect(addr).unwrap())
        .collect();
    for client in &clients {
        let (stream, origin) = socket.try_next().unwrap();
        let source = client.local_addr().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), source);
        assert!(matches!(origin, Origin::Tcp(from) if from == source));
    }
    let empty = socket.try_next().unwrap_err();
    assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let socket = UnixListener::bind(&path).unwrap();
    let _client = unix::net::UnixStream::connect(&path).unwrap();
    let (_, origin) = socket.try_next().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    assert!(matches!(origin, Origin::Unix(peer) if peer.uid == uid));
    let empty = socket.try_next().unwrap_err();
    assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn lack_of_descriptors_is_no_connection_error() {
    for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::HOSTUNREACH] {
        assert!(is_connection_error(&errno.into()), "{errno:?}");
    }
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        assert!(!is_connection_error(&errno.into()), "{errno:?}");
    }
}
