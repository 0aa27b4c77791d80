//! Servers from a file: changes, invalid contents, reloads and overrides.

use std::{fs, path::PathBuf, time::Duration};

use leastconn_testkit::{
    DEADLINE, Port, Upstream,
    client::{read_line, read_to_close},
    eventually,
};
use serde_json::json;

use crate::ctl::{SOCKET, ctl};
use crate::support::upgrading::{self, shut_down_all, upgrade};
use crate::support::{BIN, NO_PROBES, Running, Site, named_servers, talk, tcp};

/// A file of servers in the directory of the configuration.
struct ServerFile(PathBuf);

impl ServerFile {
    fn of(site: &Site) -> Self {
        Self(site.dir.path().join("web.json"))
    }

    /// Writes a list of `servers`. The file is replaced by a rename.
    fn list(&self, servers: &[&Upstream]) {
        let entry = |s: &&Upstream| json!({ "name": s.name(), "address": s.addr().to_string() });
        let servers: Vec<_> = servers.iter().map(entry).collect();
        self.write(&json!({ "servers": servers }).to_string());
    }

    fn write(&self, text: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

fn site(discovery: &str, health_check: &str) -> Site {
    let discovery = format!("discovery = {{ {discovery} }}");
    Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(
            "web",
            &[health_check, &discovery],
            &["{ file = \"web.json\" }".to_owned()],
        )
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
}

/// Starts a balancer whose file lists `servers`.
async fn start(
    servers: &[&Upstream],
    discovery: &str,
    health_check: &str,
) -> (ServerFile, Running) {
    let site = site(discovery, health_check);
    let file = ServerFile::of(&site);
    file.list(servers);
    (file, site.start().await)
}

async fn wait_names(lb: &Running, expected: &[&str]) {
    let matches = || async {
        let names = lb.server_names().await;
        (names == expected)
            .then_some(())
            .ok_or(format!("{names:?}"))
    };
    eventually(DEADLINE, matches).await.unwrap();
}

async fn wait_error(lb: &Running, text: &str) {
    lb.wait_log(|line| line.to_string().contains(text), DEADLINE)
        .await;
}

#[tokio::test]
async fn servers_follow_the_file() {
    let all = named_servers(2).await;
    let (file, lb) = start(&[&all[0]], "hold = \"0s\"", NO_PROBES).await;
    let mut open = tcp(lb.main()).await;
    assert_eq!(read_line(&mut open).await.unwrap(), "web1");

    file.list(&[&all[0], &all[1]]);
    wait_names(&lb, &["web1", "web2"]).await;
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web2");

    file.list(&[&all[1]]);
    wait_names(&lb, &["web2"]).await;
    // The connection to the removed server continues, and is still counted.
    let active = "leastconn_server_connections_active{upstream=\"web\",server=\"web1\"}";
    lb.wait_metric(active, 1.0, DEADLINE).await;
    for _ in 0..5 {
        assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web2");
    }
    drop(open);
    lb.idle().await;
}

#[tokio::test]
async fn unusable_files_change_nothing() {
    let all = named_servers(1).await;
    let (file, lb) = start(&[&all[0]], "hold = \"0s\"", NO_PROBES).await;
    for (contents, error) in [
        ("{\"servers\": [", "invalid JSON"),
        ("{\"servers\": []}", "the answer contains no servers"),
        (
            "{\"servers\": [{\"address\": \"web\"}]}",
            "is not an address",
        ),
    ] {
        file.write(contents);
        wait_error(&lb, error).await;
        assert_eq!(lb.server_names().await, ["web1"]);
    }
    fs::remove_file(&file.0).unwrap();
    wait_error(&lb, "it cannot be read").await;
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web1");
    file.list(&[&all[0]]);
    wait_error(&lb, "discovery recovered").await;
    lb.idle().await;
}

#[tokio::test]
async fn removed_servers_are_held() {
    let all = named_servers(2).await;
    let (file, lb) = start(&[&all[0], &all[1]], "hold = \"2s\"", NO_PROBES).await;
    wait_names(&lb, &["web1", "web2"]).await;
    file.list(&[&all[1]]);
    let start = tokio::time::Instant::now();
    wait_names(&lb, &["web2"]).await;
    assert!(start.elapsed() >= Duration::from_secs(2));
    lb.idle().await;
}

/// A new server gets no connection before a probe has succeeded.
#[tokio::test]
async fn new_servers_wait_for_a_good_probe() {
    let all = named_servers(2).await;
    let probes = "health_check = { type = \"tcp\", interval = \"300ms\" }";
    let (file, lb) = start(&[&all[0]], "hold = \"0s\"", probes).await;
    let dead = Port::reserve();
    let list = json!({ "servers": [
        { "name": "web1", "address": all[0].addr().to_string() },
        { "name": "dead", "address": dead.address.to_string() },
    ]});
    file.write(&list.to_string());
    wait_names(&lb, &["web1", "dead"]).await;
    for _ in 0..20 {
        assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web1");
    }
    let failures = "leastconn_server_connect_failures_total{upstream=\"web\",server=\"dead\"}";
    lb.wait_metric(failures, 0.0, DEADLINE).await;

    file.list(&[&all[0], &all[1]]);
    let up = "leastconn_server_up{upstream=\"web\",server=\"web2\"}";
    lb.wait_metric(up, 1.0, DEADLINE).await;
    lb.idle().await;
}

#[tokio::test]
async fn connections_to_removed_servers_are_closed_on_request() {
    let all = named_servers(2).await;
    let (file, lb) = start(&[&all[0]], "hold = \"0s\", removed = \"close\"", NO_PROBES).await;
    let mut open = tcp(lb.main()).await;
    assert_eq!(read_line(&mut open).await.unwrap(), "web1");
    file.list(&[&all[1]]);
    wait_names(&lb, &["web2"]).await;
    let _ = read_to_close(&mut open).await;
    let record = lb.expect_record(0, "server_removed").await;
    assert_eq!(record["server"], "web1");
    lb.idle().await;
}

#[tokio::test]
async fn reload_keeps_discovered_servers() {
    let all = named_servers(1).await;
    let (file, lb) = start(&[&all[0]], "hold = \"0s\"", NO_PROBES).await;
    wait_names(&lb, &["web1"]).await;
    // Remove the file, so that only the servers known before the reload remain.
    fs::remove_file(&file.0).unwrap();
    let config = lb.config().replace("hold = \"0s\"", "hold = \"1s\"");
    assert_eq!(lb.reload(&config).await, "applied");
    assert_eq!(lb.server_names().await, ["web1"]);
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web1");
    lb.idle().await;
}

#[tokio::test]
async fn upgrade_keeps_discovered_servers_while_the_source_fails() {
    let all = named_servers(2).await;
    let site = site("start = \"wait\"", NO_PROBES);
    let file = ServerFile::of(&site);
    file.list(&[&all[0]]);
    let lb = upgrading::start(site).await;
    let mut open = tcp(lb.main()).await;
    assert_eq!(read_line(&mut open).await.unwrap(), "web1");
    fs::remove_file(&file.0).unwrap();
    wait_error(&lb, "it cannot be read").await;

    let newest = upgrade(&lb, lb.pid()).await;
    assert_eq!(lb.server_names().await, ["web1"]);
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web1");
    file.list(&[&all[0], &all[1]]);
    wait_names(&lb, &["web1", "web2"]).await;
    drop(open);
    shut_down_all(&lb, newest).await;
}

#[tokio::test]
async fn client_waits_for_its_absent_server() {
    let all = named_servers(2).await;
    let retry = "retry_for = \"30s\"";
    let site = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(
            "web",
            &[NO_PROBES, retry, "discovery = { hold = \"0s\" }"],
            &["{ file = \"web.json\" }".to_owned()],
        )
        .client("local", "source = \"127.0.0.0/8\"", "web/web2", "");
    let file = ServerFile::of(&site);
    file.list(&[&all[0]]);
    let lb = site.start().await;
    wait_names(&lb, &["web1"]).await;
    let waiting = tokio::spawn(talk(tcp(lb.main()).await));
    let active = "leastconn_connections_active{listener=\"main\"}";
    lb.wait_metric(active, 1.0, DEADLINE).await;
    file.list(&[&all[0], &all[1]]);
    assert_eq!(waiting.await.unwrap().unwrap(), "web2");

    file.list(&[&all[0]]);
    wait_names(&lb, &["web1"]).await;
    let config = lb.config().replace(retry, "retry_for = \"0s\"");
    assert_eq!(lb.reload(&config).await, "applied");
    let _ = talk(tcp(lb.main()).await).await;
    lb.expect_record(1, "no_server_available").await;
    lb.idle().await;
}

#[tokio::test]
async fn override_applies_again_to_a_rejoining_server() {
    let all = named_servers(2).await;
    let site = site("hold = \"0s\"", NO_PROBES).admin(SOCKET);
    let file = ServerFile::of(&site);
    file.list(&[&all[0], &all[1]]);
    let lb = site.start().await;
    wait_names(&lb, &["web1", "web2"]).await;
    ctl(&lb, &["drain", "web/web2"]).await.ok();
    file.list(&[&all[0]]);
    wait_names(&lb, &["web1"]).await;
    file.list(&[&all[0], &all[1]]);
    wait_names(&lb, &["web1", "web2"]).await;
    assert_eq!(lb.servers().await[1]["state"], "drain");
    ctl(&lb, &["ready", "web/web2"]).await.ok();
    assert_eq!(lb.servers().await[1]["state"], "ready");
    lb.idle().await;
}

#[tokio::test]
async fn process_is_not_ready_before_the_first_answer() {
    let all = named_servers(1).await;
    let admin = Port::reserve();
    let site = site("start = \"wait\"", NO_PROBES);
    let file = ServerFile::of(&site);
    let config = site.config().replace(
        "[admin]\nbind = \"127.0.0.1:0\"",
        &format!("[admin]\nbind = \"{}\"", admin.address),
    );
    let start = site.start_as_with(BIN, &config, |_| {});
    let list = async {
        let ready = || async {
            let answer = leastconn_testkit::http_get(admin.address, "/readyz").await;
            let (status, _) = answer.map_err(|error| error.to_string())?;
            (status == 503).then_some(()).ok_or(status.to_string())
        };
        eventually(DEADLINE, ready).await.unwrap();
        let status = leastconn_testkit::http_get(admin.address, "/api/v1/status").await;
        let (_, status) = status.unwrap();
        assert!(status.contains("\"waits_for_servers\":true"), "{status}");
        file.list(&[&all[0]]);
    };
    let (lb, ()) = tokio::join!(start, list);
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    let (_, status) = lb.http_get("/api/v1/status").await;
    assert!(!status.contains("waits_for_servers"), "{status}");
    assert_eq!(lb.server_names().await, ["web1"]);
    lb.idle().await;
}
