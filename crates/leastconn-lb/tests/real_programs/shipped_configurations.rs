//! Once certificates exist, the configurations in the Debian package and in the Kubernetes
//! manifests authorize the client that they name. The tests replace the addresses of the servers.

use std::{fs, net::SocketAddr, path::Path};

use leastconn_testkit::{Balancer, TempDir};

use crate::{
    nginx::Nginx,
    program::{LB, lb, replace, run, tool},
    site::{self, repository},
};

/// A CA with the certificates `server`, `client1.example.com` and `client2.example.com`.
async fn pki() -> TempDir {
    let dir = TempDir::new().unwrap();
    let commands: [&[&str]; 4] = [
        &["init", "pki"],
        &[
            "issue",
            "pki",
            "--cn",
            "lb.example.com",
            "--dns",
            "lb.example.com",
            "--server",
            "--out",
            "server",
        ],
        &["issue", "pki", "--cn", "client1.example.com", "--client"],
        &["issue", "pki", "--cn", "client2.example.com", "--client"],
    ];
    for command in commands {
        run(lb(["pki"]).args(command).current_dir(dir.path()))
            .await
            .ok();
    }
    dir
}

/// Requests the page as `client`. Returns `None` if the client is refused.
async fn get_page(pki: &Path, address: SocketAddr, client: &str) -> Option<String> {
    let mut curl = tool("curl");
    curl.args(["-q", "-sS", "--fail", "--noproxy", "*", "--max-time", "20"])
        .arg("--cacert")
        .arg(pki.join("ca.crt"))
        .arg("--cert")
        .arg(pki.join(format!("{client}.crt")))
        .arg("--key")
        .arg(pki.join(format!("{client}.key")))
        .args(["--connect-to", &format!("lb.example.com:443:{address}")])
        .arg("https://lb.example.com/");
    let output = run(&mut curl).await;
    (output.code == 0).then_some(output.stdout)
}

/// The admin socket in the configurations for systemd and Kubernetes.
const SOCKET: &str = "socket = \"/run/leastconn/leastconn.sock\"";

/// Checks and runs `config`, connects as an authorized and as an unknown client, and runs
/// `ctl`.
async fn check_and_serve(dir: &TempDir, config: &str) {
    let pki = dir.path().join("pki");
    let conf = dir.path().join("conf");
    fs::create_dir(&conf).unwrap();
    let file = conf.join("checked.toml");
    let config = &replace(config, SOCKET, "socket = \"leastconn.sock\"");
    fs::write(&file, config).unwrap();
    let checked = run(lb(["check", "--config"]).arg(&file)).await.ok();
    assert!(!checked.stderr.contains("warning"), "{}", checked.stderr);

    let balancer = Balancer::start(LB, config, conf).await.unwrap();
    let files = balancer.open_fds();
    assert_eq!(balancer.http_get("/readyz").await.0, 200);
    let address = balancer.address("main");
    for _ in 0..4 {
        let page = get_page(&pki, address, "client1.example.com").await;
        let page = page.expect("client1 must be served");
        assert!(page.contains("webapp"), "{page}");
    }
    assert_eq!(get_page(&pki, address, "client2.example.com").await, None);
    let status = run(lb(["ctl", "status", "--config"]).arg(&file)).await.ok();
    assert!(status.stdout.contains("web"), "{}", status.stdout);
    balancer.assert_idle(files).await;
    site::stop(&balancer).await;
}

/// Returns the YAML block scalar `key: |`, without indentation.
fn block(yaml: &str, key: &str) -> String {
    let mut lines = yaml.lines();
    let start = format!("{key}: |");
    let head = lines.find(|line| line.trim() == start).unwrap();
    let indent = head.len() - head.trim_start().len() + 2;
    let mut text = String::new();
    for line in lines {
        match line.get(..indent) {
            Some(spaces) if spaces.trim().is_empty() => text += &line[indent..],
            None if line.trim().is_empty() => {}
            _ => break,
        }
        text.push('\n');
    }
    text
}

/// Replaces the ports of the listener and of the admin address by 0.
fn on_any_port(config: &str, host: &str) -> String {
    let config = replace(
        config,
        &format!("bind = \"{host}:9443\""),
        "bind = \"127.0.0.1:0\"",
    );
    let admin = if config.contains("\"0.0.0.0:9901\"") {
        "0.0.0.0"
    } else {
        "127.0.0.1"
    };
    replace(
        &config,
        &format!("bind = \"{admin}:9901\""),
        "bind = \"127.0.0.1:0\"",
    )
}

#[tokio::test]
async fn debian_configuration_serves() {
    let dir = pki().await;
    let shipped = fs::read_to_string(repository().join("deploy/debian/leastconn.toml")).unwrap();
    // In a real installation, the package creates the directory of the log.
    let shipped = replace(&shipped, "\"/var/log/leastconn/access.log\"", "\"stdout\"");
    let file = dir.path().join("leastconn.toml");
    fs::write(&file, &shipped).unwrap();
    // Without certificates, `check` reports each missing file.
    let checked = run(lb(["check", "--config"]).arg(&file)).await;
    assert_eq!(checked.code, 2);
    for missing in [
        "tls/server.crt",
        "tls/server.key",
        "tls/ca.crt",
        "tls/ca.crl",
    ] {
        assert!(
            checked
                .stderr
                .contains(&format!("\"{missing}\": No such file")),
            "{}",
            checked.stderr
        );
    }
    let errors = checked
        .stderr
        .lines()
        .filter(|line| line.starts_with("error"));
    assert_eq!(errors.count(), 4, "{}", checked.stderr);

    let (web1, web2) = (
        Nginx::start("webapp1", dir.path()).await,
        Nginx::start("webapp2", dir.path()).await,
    );
    let config = on_any_port(&shipped, "127.0.0.1");
    let config = replace(
        &config,
        "\"127.0.0.1:8081\"",
        &format!("\"{}\"", web1.address()),
    );
    let config = replace(
        &config,
        "\"127.0.0.1:8082\"",
        &format!("\"{}\"", web2.address()),
    );
    let config = config.replace("\"tls/", "\"../pki/");
    let config = replace(&config, "[log]", "[log]\nformat = \"json\"");
    check_and_serve(&dir, &config).await;
}

/// Starts a pod's configuration, in which `servers` replaces the servers with two test servers.
async fn assert_pod_serves(shipped: &str, servers: impl Fn(&str, [&Nginx; 2]) -> String) {
    let dir = pki().await;
    let (web1, web2) = (
        Nginx::start("webapp1", dir.path()).await,
        Nginx::start("webapp2", dir.path()).await,
    );
    let mut config = servers(&on_any_port(shipped, "0.0.0.0"), [&web1, &web2]);
    for (mounted, made) in [
        ("tls.crt", "server.crt"),
        ("tls.key", "server.key"),
        ("client-ca.crt", "ca.crt"),
        ("client-ca.crl", "ca.crl"),
    ] {
        config = replace(
            &config,
            &format!("\"/etc/leastconn/tls/{mounted}\""),
            &format!("\"../pki/{made}\""),
        );
    }
    check_and_serve(&dir, &config).await;
}

#[tokio::test]
async fn kubernetes_configuration_serves() {
    let shipped = repository().join("deploy/kubernetes/leastconn.toml");
    let shipped = fs::read_to_string(shipped).unwrap();
    let servers = |config: &str, [web1, web2]: [&Nginx; 2]| {
        let mut config = config.to_owned();
        for (name, web) in [("web-0", web1), ("web-1", web2)] {
            let address = format!("\"{name}.web.default.svc.cluster.local:8080\"");
            config = replace(&config, &address, &format!("\"{}\"", web.address()));
        }
        config
    };
    assert_pod_serves(&shipped, servers).await;
}

#[tokio::test]
async fn helm_configuration_serves() {
    let values = repository().join("deploy/helm/leastconn/values.yaml");
    let values = fs::read_to_string(values).unwrap();
    let shipped = block(&values, "config");
    assert!(shipped.starts_with("[process]\n"), "{shipped}");
    let servers = |config: &str, [web1, web2]: [&Nginx; 2]| {
        let both = format!(
            "{{ name = \"web-0\", address = \"{}\" }}, {{ name = \"web-1\", address = \"{}\" }}",
            web1.address(),
            web2.address()
        );
        let dns = "{ dns = \"web.default.svc.cluster.local:8080\" }";
        replace(config, dns, &both)
    };
    assert_pod_serves(&shipped, servers).await;
}
