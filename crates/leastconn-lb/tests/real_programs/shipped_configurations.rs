//! The configurations that are installed with the balancer: the Debian package's, and
//! the one in the manifests for Kubernetes. With the certificates that they ask for, and
//! the servers moved to this machine, they serve the client that they name.

use std::{fs, net::SocketAddr, path::Path};

use leastconn_testkit::{Balancer, TempDir};

use crate::{
    nginx::Nginx,
    program::{LB, lb, replace, run, tool},
    site::{self, repository},
};

/// A small authority, and what it issued: `server`, `client1.example.com`,
/// `client2.example.com`.
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

/// What curl gets as `client`, if anything.
async fn ask(pki: &Path, address: SocketAddr, client: &str) -> Option<String> {
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
    let ended = run(&mut curl).await;
    (ended.code == 0).then_some(ended.stdout)
}

/// Where the unit and the manifests make room for the admin socket.
const SOCKET: &str = "socket = \"/run/leastconn/leastconn.sock\"";

/// Checks and runs `config`, asks it as two clients, of which it knows one, and steers it.
async fn serves(dir: &TempDir, config: &str) {
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
        let page = ask(&pki, address, "client1.example.com").await;
        let page = page.expect("client1 is not served");
        assert!(page.contains("webapp"), "{page}");
    }
    assert_eq!(ask(&pki, address, "client2.example.com").await, None);
    let steered = run(lb(["ctl", "status", "--config"]).arg(&file)).await.ok();
    assert!(steered.stdout.contains("web"), "{}", steered.stdout);
    balancer.assert_idle(files).await;
    site::stop(&balancer).await;
}

/// The block below `key: |`, without its indentation, as YAML has it.
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

/// `bind` of the listener and of the admin side, on any port.
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
    // The log's directory is made when the package is installed.
    let shipped = replace(&shipped, "\"/var/log/leastconn/access.log\"", "\"stdout\"");
    let file = dir.path().join("leastconn.toml");
    fs::write(&file, &shipped).unwrap();
    // As installed: what is missing is named, each with its place.
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
    serves(&dir, &config).await;
}

#[tokio::test]
async fn kubernetes_configuration_serves() {
    let dir = pki().await;
    let manifest =
        fs::read_to_string(repository().join("deploy/kubernetes/configmap.yaml")).unwrap();
    let shipped = block(&manifest, "leastconn.toml");
    assert!(
        shipped.starts_with("[process]\n") && shipped.contains("\n[[client]]\n"),
        "{shipped}"
    );

    let (web1, web2) = (
        Nginx::start("webapp1", dir.path()).await,
        Nginx::start("webapp2", dir.path()).await,
    );
    let mut config = on_any_port(&shipped, "0.0.0.0");
    for (name, web) in [("web-0", &web1), ("web-1", &web2)] {
        let address = format!("\"{name}.web.default.svc.cluster.local:8080\"");
        config = replace(&config, &address, &format!("\"{}\"", web.address()));
    }
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
    serves(&dir, &config).await;
}
