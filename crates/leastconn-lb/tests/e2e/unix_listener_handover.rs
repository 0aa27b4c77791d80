//! UNIX listeners across upgrades (SIGUSR2) and with socket activation (`LISTEN_FDS`).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Signal, Upstream};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::socket_activation::pass_sockets;
use crate::support::BIN;
use crate::support::upgrading::{
    shut_down_all, signal, start, upgrade, wait_process_exit, write_script,
};
use crate::support::{NO_PROBES, Site, entries, talk};

fn site(web: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", "bind = \"unix:lb.sock\""])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("local", "source = \"127.0.0.1\"", "web", "")
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

async fn served(path: &Path) -> io::Result<()> {
    let name = talk(UnixStream::connect(path).await?).await?;
    assert_eq!(name, "web1");
    Ok(())
}

/// Clients connect continuously during two upgrades. The socket file is never replaced, so
/// no client is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_listener_is_kept_across_upgrades() {
    let web = Upstream::named("web1").await;
    let lb = start(site(&web)).await;
    let path = Arc::<Path>::from(lb.dir().join("lb.sock"));
    let file = inode(&path);
    let mut open = UnixStream::connect(&path).await.unwrap();
    assert_eq!(read_line(&mut open).await.unwrap(), "web1");

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients: JoinSet<io::Result<usize>> = JoinSet::new();
    for _ in 0..4 {
        let (path, stop) = (Arc::clone(&path), Arc::clone(&stop));
        clients.spawn(async move {
            let mut connections = 0;
            while !stop.load(Ordering::Relaxed) {
                served(&path).await?;
                connections += 1;
            }
            Ok(connections)
        });
    }
    let mut pid = lb.pid();
    for _ in 0..2 {
        pid = upgrade(&lb, pid).await;
        served(&path).await.unwrap();
        assert_eq!(inode(&path), file);
    }
    stop.store(true, Ordering::Relaxed);
    let mut connections = 3;
    while let Some(ended) = clients.join_next().await {
        connections += ended.unwrap().unwrap();
    }

    // The first process serves its connection to the end, and does not remove the file.
    assert_eq!(roundtrip(&mut open, b"x").await.unwrap(), b"x");
    open.shutdown().await.unwrap();
    assert!(read_to_close(&mut open).await.unwrap().is_empty());
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    assert_eq!(inode(&path), file);
    let records = lb.wait_records(connections).await;
    assert!(records.iter().all(|record| record["outcome"] == "ok"));

    // The last process removes the file.
    shut_down_all(&lb, pid).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn upgrade_applies_a_new_bind_mode() {
    let web = Upstream::named("web1").await;
    let lb = start(site(&web)).await;
    let path = lb.dir().join("lb.sock");
    assert_eq!(mode(&path), 0o600);
    let with_mode = "bind_mode = \"0660\"\nbind = \"unix:lb.sock\"";
    lb.write_config(&lb.config().replace("bind = \"unix:lb.sock\"", with_mode));
    let pid = upgrade(&lb, lb.pid()).await;
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    served(&path).await.unwrap();
    assert_eq!(mode(&path), 0o660);
    signal(pid, Signal::TERM);
    wait_process_exit(pid).await;
}

/// If the new configuration no longer names a socket, the upgrade closes the socket. The old
/// process removes the socket file when it exits.
#[tokio::test]
async fn removed_unix_listener_leaves_no_file_after_an_upgrade() {
    let web = Upstream::named("web1").await;
    let lb = start(site(&web)).await;
    let path = lb.dir().join("lb.sock");
    let other = lb.dir().join("other.sock");
    lb.write_config(&lb.config().replace("unix:lb.sock", "unix:other.sock"));
    let pid = upgrade(&lb, lb.pid()).await;
    served(&other).await.unwrap();
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    assert!(!path.exists());
    signal(pid, Signal::TERM);
    wait_process_exit(pid).await;
    assert!(!other.exists());
}

/// The file belongs to the service manager, which keeps listening on the socket while the
/// balancer is stopped: no process of the balancer removes the file or changes its mode.
#[tokio::test]
async fn file_of_a_unix_socket_from_systemd_is_kept() {
    let web = Upstream::named("web1").await;
    let site = site(&web);
    let path = site.dir.path().join("lb.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let file = inode(&path);
    // A client that connects before the balancer starts waits in the backlog.
    let early = UnixStream::connect(&path).await.unwrap();
    let config = site
        .config()
        .replace("unix:lb.sock", &format!("unix:{}", path.display()));
    let bin = site.dir.path().join("activated");
    write_script(&bin, &format!("LISTEN_PID=$$ exec {BIN} \"$@\""));
    let kept = socket.try_clone().unwrap();
    let lb = site
        .start_as_with(&bin, &config, |command| {
            pass_sockets(command, vec![socket], "leastconn.socket");
        })
        .await;
    assert_eq!(talk(early).await.unwrap(), "web1");
    served(&path).await.unwrap();

    // A reload keeps the socket, and keeps the mode that the service manager has set.
    let other_mode = config.replace(
        "upstream = \"web\"
bind",
        "upstream = \"web\"
bind_mode = \"0660\"
bind",
    );
    assert_ne!(other_mode, config);
    assert_eq!(lb.reload(&other_mode).await, "applied");
    served(&path).await.unwrap();

    let mut pid = lb.pid();
    for _ in 0..2 {
        pid = upgrade(&lb, pid).await;
        served(&path).await.unwrap();
    }
    shut_down_all(&lb, pid).await;
    assert_eq!(inode(&path), file);
    assert_eq!(mode(&path), 0o666);
    // The service manager's own descriptor still accepts connections.
    let waiting = UnixStream::connect(&path).await.unwrap();
    kept.set_nonblocking(false).unwrap();
    kept.accept().unwrap();
    drop(waiting);
}
