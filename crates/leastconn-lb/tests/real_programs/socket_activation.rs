use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
};

use leastconn_testkit::{Balancer, DEADLINE, Signal, TempDir, Upstream, client, eventually};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::program::{LB, Port, find};

/// The first connection starts the service and is served. The socket that systemd passed
/// also survives an upgrade.
#[tokio::test]
async fn systemd_activated_service_serves_first_client() {
    let Some(activate) = find("systemd-socket-activate") else {
        eprintln!("skipped: systemd-socket-activate is not installed (Debian: systemd)");
        return;
    };
    let dir = TempDir::new().unwrap();
    let web = Upstream::named("web1").await;
    let port = Port::reserve();
    let address = port.address;
    let config = format!(
        r#"
[[listener]]
name = "main"
bind = "{address}"
upstream = "web"

[[upstream]]
name = "web"
servers = ["{}"]

[[client]]
name = "local"
match = {{ source = "127.0.0.0/8" }}
allow = "web"
"#,
        web.addr()
    );
    let bin = dir.path().join("activated");
    let script = format!(
        "#!/bin/sh\nexec {} -l {address} {LB} \"$@\"\n",
        activate.display()
    );
    fs::write(&bin, script).unwrap();
    fs::set_permissions(&bin, Permissions::from_mode(0o755)).unwrap();

    let first = eventually(DEADLINE, || async {
        let connected = TcpStream::connect(address).await;
        connected.map_err(|error| error.to_string())
    });
    let start = Balancer::start_with(&bin, &config, &dir, |command| {
        // The successor will be in the same process group, and can be killed with it.
        command.process_group(0);
    });
    let (lb, first) = tokio::join!(start, first);
    let (lb, first) = (lb.unwrap(), first.unwrap());
    assert_eq!(lb.address("main"), address);
    served(first).await;
    lb.signal(Signal::USR2);
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    served(TcpStream::connect(address).await.unwrap()).await;
}

async fn served(mut stream: TcpStream) {
    assert_eq!(client::read_line(&mut stream).await.unwrap(), "web1");
    assert_eq!(client::roundtrip(&mut stream, b"x").await.unwrap(), b"x");
    stream.shutdown().await.unwrap();
    client::read_to_close(&mut stream).await.unwrap();
}
