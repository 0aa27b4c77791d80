//! MariaDB behind the balancer, with `socat` as the TLS client, and the `mysql` health check.

use std::process::Command;

use leastconn_testkit::{DEADLINE, within};

use crate::{
    program::{self, Port, run, tool},
    service::{Front, Service, are_installed},
    site::Certs,
};

#[tokio::test]
async fn mariadb_client_connects_through_socat() {
    let programs = [
        ("mariadbd", "mariadb-server"),
        ("mariadb-install-db", "mariadb-server"),
        ("mariadb", "mariadb-client"),
        ("socat", "socat"),
    ];
    if !are_installed(&programs) {
        return;
    }
    let certs = Certs::generate().await;
    let data = certs.dir().join("data");
    // The server refuses to run as root without this option.
    let user = rustix::process::geteuid()
        .is_root()
        .then_some("--user=root");
    let datadir = format!("--datadir={}", data.display());
    let mut install = tool("mariadb-install-db");
    install.args(["--no-defaults", &datadir, "--skip-test-db"]);
    run(install.args(user)).await.ok();
    let port = Port::reserve();
    let mut server = Command::new(program::path("mariadbd"));
    server
        .args(["--no-defaults", &datadir, "--bind-address=127.0.0.1"])
        .arg(format!("--port={}", port.address.port()))
        .arg(format!("--socket={}", data.join("sock").display()))
        .args(["--skip-grant-tables", "--skip-networking=0"])
        .args(user);
    let log = certs.dir().join("mariadb.log");
    let _server = Service::start(server, port.address, &log).await;
    let check = r#"{ type = "mysql", interval = "200ms", timeout = "2s" }"#;
    let front = Front::start(certs, port.address, "", check).await;

    let local = Port::reserve();
    let local_port = local.address.port().to_string();
    let [ca, cert, key] = front.files();
    let mut socat = Command::new(program::path("socat"));
    socat
        .arg(format!(
            "TCP-LISTEN:{local_port},bind=127.0.0.1,fork,reuseaddr"
        ))
        .arg(format!(
            "OPENSSL:localhost:{},cafile={},cert={},key={}",
            front.port(),
            ca.display(),
            cert.display(),
            key.display()
        ));
    // To detect that socat listens, `Service::start` opens a connection and sends nothing.
    let log = front.certs.dir().join("socat.log");
    let _socat = Service::start(socat, local.address, &log).await;
    front.balancer.wait_records(1).await;
    let query = async |address: &Port, sql: &str| {
        let mut client = tool("mariadb");
        client.args(["--no-defaults", "-h", "127.0.0.1", "--skip-ssl", "-N", "-B"]);
        client.args(["-P", &address.address.port().to_string(), "-e", sql]);
        run(&mut client).await.ok().stdout
    };
    assert_eq!(query(&local, "select 6 * 7").await, "42\n");
    let sql = "select length(repeat('x', 3000000))";
    assert_eq!(query(&local, sql).await, "3000000\n");
    // MariaDB does not count health checks as failed connections. It does count the connection
    // that `Service::start` opened.
    let counter = async |name: &str| -> u64 {
        let row = query(&port, &format!("show global status like '{name}'")).await;
        row.split_whitespace().last().unwrap().parse().unwrap()
    };
    let aborted = counter("Aborted_connects").await;
    let connections = counter("Connections").await;
    within(DEADLINE, "three health checks", async {
        // Every query also uses a connection.
        let mut queries = 1;
        while counter("Connections").await < connections + queries + 3 {
            queries += 1;
        }
    })
    .await;
    assert_eq!(counter("Aborted_connects").await, aborted);
    front.finish(3).await;
}
