use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use leastconn_testkit::{DEADLINE, eventually};
use tokio::process::Command as AsyncCommand;

use crate::{
    program::{self, Input, Port, run, run_with, tool},
    site::{self, Certs},
};

/// redis-server without persistence. Killed when dropped.
struct Redis {
    port: Port,
    process: Child,
}

impl Redis {
    async fn start(dir: &Path) -> Self {
        let port = Port::reserve();
        let process = Command::new(program::path("redis-server"))
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &port.address.port().to_string(),
            ])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let up = eventually(DEADLINE, || async {
            let connected = tokio::net::TcpStream::connect(port.address).await;
            connected.map(drop).map_err(|error| error.to_string())
        });
        up.await.unwrap();
        Self { port, process }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(redis: &Redis) -> String {
    format!(
        r#"
[admin]
bind = "127.0.0.1:0"

[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "redis"
tls = {{ cert = "../certs/server/server.crt", key = "../certs/server/server.key.pem", client_ca = "../certs/ca/ca.crt" }}

[[upstream]]
name = "redis"
health_check = {{ type = "tcp", interval = "1h", timeout = "10s", send = "PING\r\n", expect = "+PONG" }}
servers = ["{}"]

[[client]]
name = "client1"
match = {{ cn = "client1.lb.com" }}
allow = ["redis"]
"#,
        redis.port.address
    )
}

#[tokio::test]
async fn redis_clients_work() {
    let certs = Certs::generate().await;
    let redis = Redis::start(certs.dir()).await;
    let balancer = site::start(&configuration(&redis), &certs).await;
    let files = balancer.open_fds();
    let port = balancer.address("main").port().to_string();
    let cli = || -> AsyncCommand {
        let (cert, key) = certs.pair("client1");
        let mut cli = tool("redis-cli");
        cli.args(["-h", "127.0.0.1", "-p", &port, "--tls", "--sni", "lb.com"])
            .arg("--cacert")
            .arg(certs.path("ca/ca.crt"))
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key);
        cli
    };

    assert_eq!(run(cli().arg("PING")).await.ok().stdout, "PONG\n");

    // Pipelining: send many commands before the first reply.
    let mut commands: String = (0..500)
        .map(|n| format!("SET key:{n} value:{n}\r\n"))
        .collect();
    commands.extend((0..500).map(|n| format!("GET key:{n}\r\n")));
    let piped = run_with(cli().arg("--pipe"), Input::Text(commands.as_bytes())).await;
    assert!(piped.ok().stdout.contains("errors: 0, replies: 1000"));
    assert_eq!(
        run(cli().args(["GET", "key:499"])).await.ok().stdout,
        "value:499\n"
    );

    // The connection survives three seconds without traffic.
    let start = leastconn::net::now();
    let waiting = run(cli().args(["BLPOP", "queue", "3"])).await.ok();
    assert!(start.elapsed() >= Duration::from_secs(3), "{waiting:?}");
    assert_eq!(waiting.stdout.trim(), "");

    // Data that follows a pause arrives.
    let mut blocked = cli();
    blocked.args(["BLPOP", "queue", "20"]);
    let push = async {
        let waits = eventually(DEADLINE, || async {
            let clients = run(cli().args(["CLIENT", "LIST"])).await.ok().stdout;
            match clients.contains("cmd=blpop") {
                true => Ok(()),
                false => Err(clients),
            }
        });
        waits.await.unwrap();
        run(cli().args(["RPUSH", "queue", "news"])).await.ok();
    };
    let (popped, ()) = tokio::join!(run(&mut blocked), push);
    assert_eq!(popped.ok().stdout, "queue\nnews\n");

    let outcomes: Vec<_> = balancer
        .records()
        .iter()
        .map(|r| r["outcome"].clone())
        .collect();
    // redis-cli closes its connection without close_notify.
    for outcome in &outcomes {
        assert!(
            ["ok", "client_truncated"].contains(&outcome.as_str().unwrap()),
            "{outcomes:?}"
        );
    }
    balancer.assert_idle(files).await;
    site::stop(&balancer).await;
}
