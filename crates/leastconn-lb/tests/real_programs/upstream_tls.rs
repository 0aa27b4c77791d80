use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use leastconn_testkit::{
    Balancer, DEADLINE, TempDir, TestCa,
    client::{read_line, read_to_close},
    eventually,
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    nginx::Nginx,
    plain,
    program::{LB, Port, path},
    site::stop,
};

const TLS: &str =
    r#"tls = { ca = "ca.crt", server_name = "web.internal", cert = "lb.crt", key = "lb.key" }"#;

/// Creates a CA, and certificates for the servers and the balancer.
fn certificates() -> (TempDir, TestCa) {
    let dir = TempDir::new().unwrap();
    let ca = TestCa::new("servers' CA");
    fs::write(dir.path().join("ca.crt"), ca.cert_pem()).unwrap();
    let server = ca.leaf("web").dns("web.internal").eku_server_only().build();
    server.write(&dir, "server");
    ca.leaf("lb").eku_client_only().build().write(&dir, "lb");
    (dir, ca)
}

async fn balancer(dir: &Path, upstream: &str, servers: &[SocketAddr]) -> Balancer {
    let servers: Vec<_> = servers.iter().map(|at| format!("\"{at}\"")).collect();
    let upstream = format!("{upstream}\nservers = [{}]", servers.join(", "));
    let config = plain::configuration(plain::ADMIN, &upstream);
    Balancer::start(LB, &config, dir).await.unwrap()
}

async fn request(lb: &Balancer, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(lb.address("main")).await.unwrap();
    stream.write_all(request).await.unwrap();
    String::from_utf8(read_to_close(&mut stream).await.unwrap()).unwrap()
}

#[tokio::test]
async fn nginx_is_connected_and_probed_by_mtls() {
    let (dir, ca) = certificates();
    let check = r#"health_check = { type = "http", path = "/healthz", status = 200, interval = "100ms", timeout = "10s", rise = 1, fall = 1 }"#;
    for (name, version) in [("webapp1", "TLSv1.2"), ("webapp2", "TLSv1.3")] {
        let web = Nginx::start_tls(name, dir.path(), version).await;
        let lb = balancer(dir.path(), &format!("{TLS}\n{check}"), &[web.address()]).await;
        let up = format!(
            "leastconn_server_up{{upstream=\"web\",server=\"{}\"}}",
            web.address()
        );
        let response = request(&lb, b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(
            response.ends_with(&format!("{name} {version} web.internal CN=lb\n")),
            "{response}"
        );
        web.set_healthy(false);
        lb.wait_metric(&up, 0.0, DEADLINE).await;
        web.set_healthy(true);
        lb.wait_metric(&up, 1.0, DEADLINE).await;
        let records = lb.wait_records(1).await;
        assert_eq!(records[0]["outcome"], "ok", "{records:?}");
        stop(&lb).await;
    }

    // The balancer's certificate was issued by another CA: nginx completes the handshake
    // and responds with status 400.
    TestCa::new("other CA").leaf("lb").build().write(&dir, "lb");
    let web = Nginx::start_tls("webapp3", dir.path(), "TLSv1.3").await;
    let lb = balancer(dir.path(), &format!("{TLS}\n{check}"), &[web.address()]).await;
    let down = |line: &Value| line.to_string().contains("HTTP status 400");
    lb.wait_log(down, DEADLINE).await;
    stop(&lb).await;

    // The server's certificate is for another name.
    ca.leaf("lb").eku_client_only().build().write(&dir, "lb");
    let wrong = ca.leaf("web").dns("db.internal").build();
    wrong.write(&dir, "server");
    let mut other = Nginx::start_tls("webapp4", dir.path(), "TLSv1.3").await;
    let lb = balancer(dir.path(), &format!("{TLS}\n{check}"), &[other.address()]).await;
    let down = |line: &Value| line.to_string().contains("\"server down\"");
    let line = lb.wait_log(down, DEADLINE).await;
    assert!(
        line.to_string().contains("is not for `web.internal`"),
        "{line}"
    );
    assert_eq!(request(&lb, b"").await, "");

    // Correct the certificate and restart the server.
    other.stop();
    let right = ca.leaf("web").dns("web.internal").build();
    right.write(&dir, "server");
    other.restart().await;
    let again = |line: &Value| line.to_string().contains("server TLS recovered");
    lb.wait_log(again, DEADLINE).await;
    let up = |line: &Value| line.to_string().contains("\"server up\"");
    lb.wait_log(up, DEADLINE).await;
    let log = lb.stderr();
    assert_eq!(log.matches("is not for `web.internal`").count(), 2, "{log}");
    assert_eq!(log.matches("server TLS recovered").count(), 1, "{log}");
    stop(&lb).await;
}

/// `openssl s_server`. Killed when dropped.
struct SServer {
    port: Port,
    process: Child,
}

impl SServer {
    /// Starts a server that requires a client certificate issued by `ca.crt`. The command gets the
    /// additional `options`.
    async fn start(dir: &Path, options: &[&str]) -> Self {
        let port = Port::reserve();
        let mut process = Command::new(path("openssl"))
            .current_dir(dir)
            .args(["s_server", "-accept", &port.address.to_string()])
            .args(["-cert", "server.crt", "-key", "server.key"])
            .args(["-CAfile", "ca.crt", "-Verify", "2", "-verify_return_error"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(dir.join("s_server.out")).unwrap())
            .stderr(fs::File::create(dir.join("s_server.err")).unwrap())
            .spawn()
            .unwrap();
        let up = eventually(DEADLINE, || async {
            let connected = TcpStream::connect(port.address).await;
            connected.map(drop).map_err(|error| error.to_string())
        });
        if let Err(error) = up.await {
            let _ = process.kill();
            let log = fs::read_to_string(dir.join("s_server.err")).unwrap();
            panic!("s_server does not start: {error}\n{log}");
        }
        Self { port, process }
    }
}

impl Drop for SServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn s_server_works_with_both_versions() {
    let (dir, _) = certificates();
    let plain = format!("{TLS}\nhealth_check = {{ type = \"none\" }}");
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        // With `-rev`, the server responds with each line reversed.
        let server = SServer::start(dir.path(), &["-rev", version]).await;
        let lb = balancer(dir.path(), &plain, &[server.port.address]).await;
        for n in 1..=3 {
            let mut stream = TcpStream::connect(lb.address("main")).await.unwrap();
            stream.write_all(b"hello\n").await.unwrap();
            assert_eq!(read_line(&mut stream).await.unwrap(), "olleh");
            stream.shutdown().await.unwrap();
            assert!(read_to_close(&mut stream).await.unwrap().is_empty());
            let records = lb.wait_records(n).await;
            assert_eq!(records[n - 1]["outcome"], "ok", "{version}: {records:?}");
        }
        stop(&lb).await;
        drop(server);

        // With `-www`, the server responds with a page about the session.
        let server = SServer::start(dir.path(), &["-www", version]).await;
        let lb = balancer(dir.path(), &plain, &[server.port.address]).await;
        for _ in 0..2 {
            let page = request(&lb, b"GET / HTTP/1.0\r\n\r\n").await;
            assert!(page.contains(&format!("New, {name}")), "{version}: {page}");
            assert!(page.contains("CN = lb") || page.contains("CN=lb"), "{page}");
        }
        stop(&lb).await;
    }
}

#[tokio::test]
async fn s_server_that_refuses_us_is_down() {
    let (dir, _) = certificates();
    let check = r#"health_check = { interval = "100ms", timeout = "20s", rise = 1, fall = 1 }"#;
    let nothing = TLS.replace(r#", cert = "lb.crt", key = "lb.key""#, "");
    for version in ["-tls1_2", "-tls1_3"] {
        let server = SServer::start(dir.path(), &["-quiet", version]).await;
        let lb = balancer(
            dir.path(),
            &format!("{nothing}\n{check}"),
            &[server.port.address],
        )
        .await;
        let down = |line: &Value| line.to_string().contains("\"server down\"");
        let line = lb.wait_log(down, DEADLINE).await.to_string();
        assert!(line.contains("certificate"), "{version}: {line}");
        stop(&lb).await;
    }
}
