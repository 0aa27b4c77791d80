use std::{os::unix::net::UnixStream, sync::Barrier, thread};

use super::*;

#[tokio::test]
async fn only_a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lb.sock");
    let live = StdListener::bind(&path).unwrap();
    let error = SocketFile::listen(&path, 0o600).unwrap_err().to_string();
    assert!(error.contains("another process listens there"), "{error}");
    assert!(path.exists());
    drop(live);
    let (listener, file) = SocketFile::listen(&path, 0o600).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    UnixStream::connect(&path).unwrap();
    drop((listener, file));
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    let error = SocketFile::listen(&path, 0o600).unwrap_err().to_string();
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    let target = dir.path().join("target");
    let _listener = StdListener::bind(&target).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert!(SocketFile::listen(&path, 0o600).is_err());
    assert!(target.exists() && path.is_symlink());
    let nowhere = dir.path().join("none/lb.sock");
    let error = SocketFile::listen(&nowhere, 0o600).unwrap_err().to_string();
    assert!(error.contains("there is no directory"), "{error}");
}

#[tokio::test]
async fn replaced_socket_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lb.sock");
    let (_listener, file) = SocketFile::listen(&path, 0o600).unwrap();
    // Rename the file instead of removing it, so that its inode number is not reused.
    fs::rename(&path, dir.path().join("old")).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    drop(file);
    assert!(path.exists());
}

#[tokio::test]
async fn process_with_full_backlog_counts_as_listening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lb.sock");
    let stopped = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    stopped.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    stopped.listen(0).unwrap();
    // The backlog is full: another connect would block until the process accepts.
    let _waiting = UnixStream::connect(&path).unwrap();
    let error = SocketFile::listen(&path, 0o600).unwrap_err().to_string();
    assert!(error.contains("another process listens there"), "{error}");
}

#[test]
fn one_of_many_starts_replaces_a_stale_socket() {
    const MANY: usize = 8;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.sock");
        drop(StdListener::bind(&path).unwrap());
        let barrier = Barrier::new(MANY);
        let listen = || {
            let _enter = runtime.enter();
            barrier.wait();
            SocketFile::listen(&path, 0o600)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let all: Vec<_> = (0..MANY).map(|_| scope.spawn(listen)).collect();
            let all = all.into_iter();
            all.map(|one| one.join().unwrap()).collect()
        });
        let (succeeded, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(succeeded.len(), 1);
        for result in failed {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("another process listens there"), "{error}");
        }
        // The socket at the path belongs to the successful call.
        let (listener, file) = succeeded.into_iter().next().unwrap().unwrap();
        assert!(file.is_there());
        let _client = UnixStream::connect(&path).unwrap();
        let listener = listener.into_std().unwrap();
        listener.accept().unwrap();
        drop(file);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "no file is left");
    }
}

#[tokio::test]
async fn lock_of_another_program_delays_only_briefly() {
    let dir = tempfile::tempdir().unwrap();
    let held = fs::File::open(&dir).unwrap();
    held.lock_shared().unwrap();
    let (_listener, file) = SocketFile::listen(&dir.path().join("lb.sock"), 0o600).unwrap();
    assert!(file.is_there());
}

#[tokio::test]
async fn socket_of_a_service_manager_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lb.sock");
    let passed = StdListener::bind(&path).unwrap();
    drop(SocketFile::adopt(passed.try_clone().unwrap(), &path, false).unwrap());
    assert!(path.exists());
    // A process that never took over does not remove the predecessor's file either.
    drop(SocketFile::adopt(passed.try_clone().unwrap(), &path, true).unwrap());
    assert!(path.exists());
    let (socket, mut file) = SocketFile::adopt(passed, &path, true).unwrap();
    file.take_over();
    drop((socket, file));
    assert!(!path.exists());
}
