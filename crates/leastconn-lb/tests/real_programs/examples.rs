use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use leastconn_testkit::eventually;
use tokio::net::{TcpStream, UnixStream};

use crate::{
    curl,
    program::{lb, run},
    site::{self, Certs, repository},
};

/// Replaces ports by 0, and moves UNIX sockets into the configuration's directory. Fixed
/// ports and paths could conflict with another test or with a service of the machine.
fn on_any_port(config: &str) -> String {
    let rewrite = |line: &str| {
        let Some(address) = line.strip_prefix("bind = \"") else {
            return line.to_owned();
        };
        let (address, rest) = address.split_once('"').unwrap();
        if let Some(path) = address.strip_prefix("unix:") {
            let (_, file) = path.rsplit_once('/').unwrap();
            return format!("bind = \"unix:{file}\"{rest}");
        }
        let (host, _) = address.rsplit_once(':').unwrap();
        format!("bind = \"{host}:0\"{rest}")
    };
    config.lines().map(|line| rewrite(line) + "\n").collect()
}

/// Sets the log format and the log level that the test needs.
fn with_json_log(config: &str) -> String {
    config
        .replace("format = \"text\"", "format = \"json\"")
        .replace("level = \"warn\"", "level = \"info\"")
}

/// Creates the secret of `examples/fleet.toml`.
fn write_fleet_secret(certs: &Certs, dir: &str) {
    let dir = certs.dir().join(dir);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("fleet.secret");
    fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn every_example_passes_check_and_starts() {
    let certs = Certs::generate().await;
    let mut examples: Vec<PathBuf> = fs::read_dir(repository().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    examples.sort();
    assert!(examples.len() >= 10, "{examples:?}");
    fs::create_dir(certs.dir().join("examples")).unwrap();
    write_fleet_secret(&certs, "examples");
    write_fleet_secret(&certs, "run-fleet");

    for example in examples {
        let name = example.file_stem().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&example).unwrap();
        let path = certs.dir().join(format!("examples/{name}.toml"));
        fs::write(&path, &text).unwrap();
        let checked = run(lb(["check", "--config"]).arg(&path)).await.ok();
        // The only warnings are about host names of the docker-compose network.
        for title in checked
            .stderr
            .lines()
            .filter(|line| line.starts_with("warning"))
        {
            assert!(
                title.contains("cannot be resolved"),
                "{name}: {}",
                checked.stderr
            );
        }

        let config = with_json_log(&on_any_port(&text));
        let balancer = site::start_in(&format!("run-{name}"), &config, &certs).await;
        if config.contains("[admin]") {
            assert_eq!(balancer.http_get("/readyz").await.0, 200, "{name}");
        }
        for listener in config.split("[[listener]]").skip(1) {
            let table = listener.split("[[").next().unwrap();
            let listener = table.split('"').nth(1).unwrap();
            if let Some((_, bind)) = table.split_once("bind = \"unix:") {
                let (file, _) = bind.split_once('"').unwrap();
                let path = certs.dir().join(format!("run-{name}/{file}"));
                UnixStream::connect(path).await.unwrap();
                continue;
            }
            let address = balancer.address(listener);
            TcpStream::connect(address).await.unwrap();
            if table.contains("client_ca") {
                // This needs no servers: an untrusted client is refused in the handshake.
                let mut curl = curl::get(&certs, address, Some("alt/client1"));
                // Some examples negotiate application protocols (ALPN) that curl does not
                // offer.
                let refused = run(curl.args(["--no-alpn", "https://lb.com/"])).await;
                assert!(
                    refused.stderr.contains("alert unknown ca"),
                    "{name}: {refused:?}"
                );
            }
        }
        site::stop(&balancer).await;
    }
}

#[tokio::test]
async fn relative_access_log_path_is_resolved() {
    let certs = Certs::generate().await;
    let text = fs::read_to_string(repository().join("examples/observability.toml")).unwrap();
    let balancer = site::start_in("conf", &with_json_log(&on_any_port(&text)), &certs).await;
    let mut curl = curl::get(&certs, balancer.address("main"), None);
    assert_ne!(run(curl.arg("https://lb.com/")).await.code, 0);
    let log = certs.dir().join("conf/access.log");
    let written = eventually(leastconn_testkit::DEADLINE, || async {
        let text = fs::read_to_string(&log).unwrap_or_default();
        match text.lines().next() {
            Some(line) => Ok(line.to_owned()),
            None => Err("no record yet".to_owned()),
        }
    });
    let line = written.await.unwrap();
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["outcome"], "no_certificate", "{record}");
    assert!(balancer.records().is_empty());
    site::stop(&balancer).await;
}
