//! Socket activation: sockets from the service manager are matched with listeners by their
//! addresses.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::{fs::PermissionsExt, net::UnixListener};
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};
use leastconn_testkit::client::read_line;
use leastconn_testkit::{DEADLINE, Signal, Upstream};

use crate::ctl::{SOCKET, ctl};
use crate::support::upgrading::{
    message, own_process_group, signal, upgrade, wait_process_exit, write_script,
};
use crate::support::{BIN, CLIENT1, Site, talk, tcp};

/// Passes sockets to a command as systemd does.
pub(crate) fn pass_sockets(command: &mut Command, sockets: Vec<impl Into<OwnedFd>>, names: &str) {
    own_process_group(command);
    command.env("LISTEN_FDS", sockets.len().to_string());
    command.env("LISTEN_FDNAMES", names);
    let mappings = sockets
        .into_iter()
        .zip(3..)
        .map(|(socket, child_fd)| FdMapping {
            parent_fd: socket.into(),
            child_fd,
        });
    command.fd_mappings(mappings.collect()).unwrap();
}

#[tokio::test]
async fn sockets_are_matched_by_address() {
    let web = Upstream::named("web1").await;
    let sockets: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let at: Vec<_> = sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap())
        .collect();
    // A client that connects before the service has started waits in the backlog.
    let early = tcp(at[0]).await;
    let bind = format!("bind = \"{}\"", at[0]);
    let site = Site::usual(&[&web])
        .listener("plain", &["upstream = \"web\"", &bind])
        .client("local", "source = \"127.0.0.0/8\"", "web", "");
    let admin = format!("[admin]\nbind = \"{}\"", at[1]);
    let config = site
        .config()
        .replace("[admin]\nbind = \"127.0.0.1:0\"", &admin);
    let bin = site.dir.path().join("activated");
    write_script(&bin, &format!("LISTEN_PID=$$ exec {BIN} \"$@\""));
    let lb = site
        .start_as_with(&bin, &config, |command| {
            pass_sockets(
                command,
                sockets,
                "leastconn.socket:leastconn.socket:stray.socket",
            );
        })
        .await;
    assert_eq!((lb.address("plain"), lb.admin()), (at[0], at[1]));
    assert_eq!(talk(early).await.unwrap(), "web1");
    assert_eq!(talk(tcp(at[0]).await).await.unwrap(), "web1");
    // A listener for which no socket was passed binds a socket itself.
    let client = lb.client(CLIENT1);
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    // A socket without a listener is closed, and the log names it.
    let stray = lb
        .wait_log(
            |event| event["fields"]["address"] == at[2].to_string(),
            DEADLINE,
        )
        .await;
    assert_eq!(stray["level"], "WARN", "{stray}");
    assert!(tokio::net::TcpStream::connect(at[2]).await.is_err());
    lb.quiet().await;

    // An upgrade passes on the sockets that came from systemd.
    let mut open = tcp(at[0]).await;
    read_line(&mut open).await.unwrap();
    let pid = upgrade(&lb, lb.pid()).await;
    assert_eq!(talk(tcp(at[0]).await).await.unwrap(), "web1");
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(!environment.contains("LISTEN_PID"), "{environment:?}");
    drop(open);
    lb.wait_exit(DEADLINE).await;
}

/// The socket file belongs to the service manager, which keeps listening on it. Without the
/// file, clients could not reach the next process.
#[tokio::test]
async fn file_of_a_passed_admin_socket_stays() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).admin(SOCKET);
    let path = site.dir.path().join("lb.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let world_writable = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&path, world_writable).unwrap();
    // Use the absolute path of the socket, like the service manager.
    let config = site
        .config()
        .replace("\"lb.sock\"", &format!("{:?}", path.display().to_string()));
    let bin = site.dir.path().join("activated");
    write_script(&bin, &format!("LISTEN_PID=$$ exec {BIN} \"$@\""));
    let lb = site
        .start_as_with(&bin, &config, |command| {
            pass_sockets(command, vec![socket], "leastconn-admin.socket");
        })
        .await;
    ctl(&lb, &["status"]).await.ok();
    let warned = lb
        .wait_log(|event| message(event).contains("SocketMode=0600"), DEADLINE)
        .await;
    assert_eq!(warned["level"], "WARN", "{warned}");
    let mut pid = lb.pid();
    // Each process passes the socket on to the next process, and none of them removes its
    // file.
    for _ in 0..2 {
        pid = upgrade(&lb, pid).await;
        ctl(&lb, &["status"]).await.ok();
    }
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    signal(pid, Signal::TERM);
    wait_process_exit(pid).await;
    assert!(path.exists());
}

#[tokio::test]
async fn sockets_for_another_process_are_ignored() {
    let web = Upstream::named("web1").await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    let lb = Site::usual(&[&web])
        .start_with(|command| {
            pass_sockets(command, vec![socket], "main");
            command.env("LISTEN_PID", "1");
            command.env("LEASTCONN_UPGRADE", "1");
        })
        .await;
    assert_ne!(lb.main(), at);
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn port_0_is_matched_by_listener_name() {
    let web = Upstream::named("web1").await;
    let sockets: Vec<_> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let at = sockets[1].local_addr().unwrap();
    let site = Site::usual(&[&web]);
    let bin = site.dir.path().join("activated");
    write_script(&bin, &format!("LISTEN_PID=$$ exec {BIN} \"$@\""));
    let lb = site
        .start_as(&bin, |command| pass_sockets(command, sockets, "other:main"))
        .await;
    assert_eq!(lb.main(), at);
    talk(lb.client(CLIENT1).connect(at).await.unwrap())
        .await
        .unwrap();
}
