//! Socket activation: listening sockets come from the service manager, and are used by
//! whoever is configured for their addresses.

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

/// Lets a command have these sockets, as systemd would.
pub(crate) fn pass(command: &mut Command, sockets: Vec<impl Into<OwnedFd>>, names: &str) {
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
async fn by_their_addresses_whatever_their_names() {
    let web = Upstream::named("web1").await;
    let sockets: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let at: Vec<_> = sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap())
        .collect();
    // Who comes before the service has started waits in the queue.
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
            pass(
                command,
                sockets,
                "leastconn.socket:leastconn.socket:stray.socket",
            );
        })
        .await;
    assert_eq!((lb.address("plain"), lb.admin()), (at[0], at[1]));
    assert_eq!(talk(early).await.unwrap(), "web1");
    assert_eq!(talk(tcp(at[0]).await).await.unwrap(), "web1");
    // One that was not passed is bound as ever.
    let client = lb.client(CLIENT1);
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    // One that nothing is configured for is closed, and named.
    let stray = lb
        .wait_log(
            |event| message(event).contains(&at[2].to_string()),
            DEADLINE,
        )
        .await;
    assert_eq!(stray["level"], "WARN", "{stray}");
    assert!(tokio::net::TcpStream::connect(at[2]).await.is_err());
    lb.quiet().await;

    // Those that came from systemd are passed on.
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

/// Its file is the manager's, which listens there on: whoever removes it leaves the next
/// process without anybody.
#[tokio::test]
async fn an_admin_socket_whose_file_stays() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).admin(SOCKET);
    let path = site.dir.path().join("lb.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let anybody = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&path, anybody).unwrap();
    // In the directory that the configuration is in, as it calls itself.
    let config = site
        .config()
        .replace("\"lb.sock\"", &format!("{:?}", path.display().to_string()));
    let bin = site.dir.path().join("activated");
    write_script(&bin, &format!("LISTEN_PID=$$ exec {BIN} \"$@\""));
    let lb = site
        .start_as_with(&bin, &config, |command| {
            pass(command, vec![socket], "leastconn-admin.socket");
        })
        .await;
    ctl(&lb, &["status"]).await.ok();
    let warned = lb
        .wait_log(|event| message(event).contains("SocketMode=0600"), DEADLINE)
        .await;
    assert_eq!(warned["level"], "WARN", "{warned}");
    let mut pid = lb.pid();
    // It goes from one process to the next, and neither takes it for its own.
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
async fn not_those_that_are_meant_for_another_process() {
    let web = Upstream::named("web1").await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    let lb = Site::usual(&[&web])
        .start_with(|command| {
            pass(command, vec![socket], "main");
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
async fn a_port_of_the_system_s_choice_by_the_listener_s_name() {
    let web = Upstream::named("web1").await;
    let sockets: Vec<_> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let at = sockets[1].local_addr().unwrap();
    let site = Site::usual(&[&web]);
    let bin = site.dir.path().join("activated");
    write_script(&bin, &format!("LISTEN_PID=$$ exec {BIN} \"$@\""));
    let lb = site
        .start_as(&bin, |command| pass(command, sockets, "other:main"))
        .await;
    assert_eq!(lb.main(), at);
    talk(lb.client(CLIENT1).connect(at).await.unwrap())
        .await
        .unwrap();
}
