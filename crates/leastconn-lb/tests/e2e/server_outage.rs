//! Reason and start of a server outage, in the API, `ctl servers` and `ctl status`.

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{DEADLINE, Upstream, eventually, upstream::OpenConnections};
use serde_json::Value;

use crate::ctl::ctl;
use crate::support::{NO_PROBES, Running, Site, entries, entry, refusing_address, talk, tcp};

fn site(lines: &[&str], servers: &[String]) -> Site {
    Site::new()
        .admin("socket = \"lb.sock\"")
        .listener("main", &["upstream = \"web\""])
        .upstream("web", lines, servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
}

async fn get(lb: &Running, path: &str) -> Value {
    let (status, body) = lb.http_get(&format!("/api/v1/{path}")).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Waits until the second server has this health, and returns its entry.
async fn web2(lb: &Running, health: &str) -> Value {
    let server = eventually(DEADLINE, || async {
        let server = get(lb, "servers").await["servers"][1].take();
        if server["health"] == health {
            Ok(server)
        } else {
            Err(server.to_string())
        }
    });
    server.await.unwrap()
}

#[tokio::test]
async fn down_server_shows_reason_and_since() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let probes = r#"health_check = { type = "tcp", interval = "100ms", fall = 1, rise = 1 }"#;
    let lb = site(&[probes], &entries(&[&webs[0], &webs[1]]))
        .start()
        .await;
    let started: jiff::Timestamp = get(&lb, "status").await["started"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(web2(&lb, "up").await["outage"].is_null());
    webs[1].stop(OpenConnections::Close).await;
    let outage = web2(&lb, "down").await["outage"].take();
    let reason = outage["reason"].as_str().unwrap();
    let since = outage["since"].as_str().unwrap();
    assert!(reason.contains("refused"), "{outage}");
    assert!(
        since.parse::<jiff::Timestamp>().unwrap() >= started,
        "{outage}"
    );

    // A reload that keeps the server does not change its outage. Neither do further failed
    // health checks.
    let changed = lb
        .config()
        .replace("[[upstream]]", "[[upstream]]\nretries = 1");
    assert_eq!(lb.reload(&changed).await, "applied");
    assert_eq!(web2(&lb, "down").await["outage"], outage);
    let status = get(&lb, "status").await["upstreams"][0].take();
    assert_eq!(status["unhealthy"], 1, "{status}");
    assert_eq!(status["unhealthy_servers"][0]["reason"], outage["reason"]);
    let line = format!("web/web2 is down since {since}: {reason}");
    for command in ["servers", "status"] {
        let shown = ctl(&lb, &[command]).await.ok();
        assert!(shown.contains(&line), "{shown}");
    }

    webs[0].stop(OpenConnections::Close).await;
    let all_down = eventually(DEADLINE, || async {
        let shown = ctl(&lb, &["status"]).await.ok();
        if shown.contains("upstream web: NO server is available") {
            Ok(())
        } else {
            Err(shown)
        }
    });
    all_down.await.unwrap();

    webs[1].restart().await;
    assert!(web2(&lb, "up").await["outage"].is_null());
    let shown = ctl(&lb, &["servers"]).await.ok();
    assert!(!shown.contains("web/web2 is"), "{shown}");
    lb.quiet().await;
}

#[tokio::test]
async fn ejected_server_shows_the_connect_error() {
    let web = Upstream::named("web1").await;
    let mut servers = entries(&[&web]);
    servers.push(entry("web2", refusing_address(), ""));
    let lb = site(&[NO_PROBES], &servers).start().await;
    // Each connection goes to either server with equal probability until web2 is ejected.
    for _ in 0..40 {
        talk(tcp(lb.main()).await).await.unwrap();
    }
    let outage = web2(&lb, "ejected").await["outage"].take();
    let reason = outage["reason"].as_str().unwrap();
    assert!(reason.contains("refused"), "{outage}");
    let shown = ctl(&lb, &["status"]).await.ok();
    assert!(
        shown.contains("servers        web/web2 is ejected since"),
        "{shown}"
    );
    lb.quiet().await;
}

/// The only server of an upstream is never ejected.
#[tokio::test]
async fn failing_server_that_is_still_used_says_why() {
    let lb = site(
        &[NO_PROBES, "retry_for = \"0s\""],
        &[entry("web1", refusing_address(), "")],
    )
    .start()
    .await;
    let listed = ctl(&lb, &["servers"]).await.ok();
    assert!(listed.contains(" unchecked "), "{listed}");
    let unused = get(&lb, "servers").await["servers"][0].take();
    assert_eq!(unused["checked"], false, "{unused}");
    let _ = talk(tcp(lb.main()).await).await;
    lb.expect_record(0, "connect_failed").await;
    let server = get(&lb, "servers").await["servers"][0].take();
    assert_eq!(server["health"], "up", "{server}");
    let reason = server["kept_in_use"]["reason"].as_str().unwrap();
    assert!(reason.contains("refused"), "{server}");
    for command in ["servers", "status"] {
        let shown = ctl(&lb, &[command]).await.ok();
        let line = shown
            .lines()
            .find(|line| line.contains("web/web1 is failing since"));
        let line = line.unwrap_or_else(|| panic!("{shown}"));
        assert!(line.contains("refused"), "{shown}");
        assert!(
            line.ends_with("max_ejected allows no further ejection"),
            "{shown}"
        );
    }
    let failing = || async { get(&lb, "status").await["upstreams"][0]["failing"].take() };
    assert_eq!(failing().await, 1);
    // A server in drain or maintenance is not used.
    for state in ["maint", "drain"] {
        ctl(&lb, &[state, "web/web1"]).await.ok();
        assert_eq!(failing().await, 0);
        for command in ["servers", "status"] {
            let shown = ctl(&lb, &[command]).await.ok();
            assert!(!shown.contains("failing"), "{shown}");
        }
    }
    ctl(&lb, &["ready", "web/web1"]).await.ok();
    assert_eq!(failing().await, 1);
    lb.quiet().await;
}

/// Health checks use a port of their own, so that `web1` is ejected while its checks succeed.
#[tokio::test]
async fn ejected_server_that_goes_down_is_logged_before_panic() {
    let (web2, checked) = (
        Upstream::named("web2").await,
        Upstream::named("check").await,
    );
    let probes = format!(
        "health_check = {{ type = \"tcp\", port = {}, interval = \"100ms\", fall = 1, rise = 1000 }}",
        checked.addr().port()
    );
    // No server uses this port.
    let web1 = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let servers = [entry("web1", web1, ""), entry("web2", web2.addr(), "")];
    let passive = "passive = { fail_timeout = \"1h\", max_ejected = 0.5 }";
    let lb = site(&[&probes, passive], &servers).start().await;
    // The first two connections go to different servers.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = tcp(lb.main()).await;
        assert_eq!(read_line(&mut stream).await.unwrap(), "web2");
        held.push(stream);
    }
    let is = |event: &Value, message: &str, server: &str| {
        let fields = &event["fields"];
        fields["message"] == message && (server.is_empty() || fields["server"] == server)
    };
    lb.wait_log(|event| is(event, "server ejected", "web1"), DEADLINE)
        .await;
    checked.stop(OpenConnections::Close).await;
    let down = lb
        .wait_log(|event| is(event, "server down", "web1"), DEADLINE)
        .await;
    assert_eq!(down["fields"]["cause"], "health check", "{down}");
    let panic = "all servers unavailable: connecting to any of them";
    lb.wait_log(|event| is(event, panic, ""), DEADLINE).await;
    let log = lb.stderr();
    let first = log.find("\"server down\"").unwrap();
    assert!(first < log.find(panic).unwrap(), "{log}");
}

#[tokio::test]
async fn drain_of_the_last_server_is_logged() {
    let web = Upstream::named("web1").await;
    let lb = site(&[NO_PROBES], &entries(&[&web])).start().await;
    let logged = async |message: &'static str| {
        let is = |event: &Value| event["fields"]["message"] == message;
        lb.wait_log(is, DEADLINE).await
    };
    ctl(&lb, &["drain", "web/web1"]).await.ok();
    let warning = "all servers out of service: refusing connections";
    assert_eq!(logged(warning).await["fields"]["upstream"], "web");
    let log = lb.stderr();
    assert!(
        log.find("set_server_state").unwrap() < log.find(warning).unwrap(),
        "{log}"
    );
    ctl(&lb, &["ready", "web/web1"]).await.ok();
    logged("server available again").await;
    lb.quiet().await;
}

#[tokio::test]
async fn full_servers_are_reported() {
    let web = Upstream::named("web1").await;
    let servers = [
        entry("web1", web.addr(), ", max_conns = 1"),
        entry("web2", web.addr(), ", max_conns = 1"),
    ];
    let lb = site(&[NO_PROBES], &servers).start().await;
    let status = ctl(&lb, &["status"]).await.ok();
    assert!(!status.contains("max_conns"), "{status}");
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = tcp(lb.main()).await;
        read_line(&mut stream).await.unwrap();
        held.push(stream);
    }
    let status = ctl(&lb, &["status"]).await.ok();
    let line = "servers        upstream web: all 2 available servers are at max_conns, new connections \
                are refused\n";
    assert!(status.contains(line), "{status}");
    let mut refused = tcp(lb.main()).await;
    assert!(read_to_close(&mut refused).await.unwrap().is_empty());
    let record = lb.expect_record(0, "no_server_available").await;
    let detail = "all 2 allowed servers are at `max_conns`";
    assert_eq!(record["detail"], detail, "{record}");
}

#[tokio::test]
async fn full_upstream_is_logged_once_until_it_recovers() {
    let web = Upstream::named("web1").await;
    let lb = site(
        &[NO_PROBES],
        &[entry("web1", web.addr(), ", max_conns = 1")],
    )
    .start()
    .await;
    let mut held = tcp(lb.main()).await;
    read_line(&mut held).await.unwrap();
    for _ in 0..3 {
        let mut refused = tcp(lb.main()).await;
        assert!(read_to_close(&mut refused).await.unwrap().is_empty());
    }
    let start = "upstream full: refusing connections";
    let is = |event: &Value, message: &str| event["fields"]["message"] == message;
    let full = lb.wait_log(|event| is(event, start), DEADLINE).await;
    assert_eq!(full["level"], "WARN", "{full}");
    assert_eq!(full["fields"]["upstream"], "web", "{full}");
    assert_eq!(full["fields"]["servers"], 1, "{full}");
    drop(held);
    let end = |event: &Value| is(event, "upstream no longer full");
    let end = lb.wait_log(end, DEADLINE).await;
    assert_eq!(end["level"], "INFO", "{end}");
    assert_eq!(end["fields"]["refused"], 3, "{end}");
    assert_eq!(lb.stderr().matches(start).count(), 1, "{}", lb.stderr());
    lb.quiet().await;
}

#[tokio::test]
async fn full_servers_of_some_clients_are_named() {
    let web = Upstream::named("web1").await;
    let servers = [
        entry("web1", web.addr(), ", max_conns = 1"),
        entry("web2", web.addr(), ""),
    ];
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(
            "web",
            &[NO_PROBES, "queue = { size = 1, timeout = \"60s\" }"],
            &servers,
        )
        .client("local", "source = \"127.0.0.1\"", "web/web1", "")
        .start()
        .await;
    let mut held = tcp(lb.main()).await;
    read_line(&mut held).await.unwrap();
    let mut waiting = tcp(lb.main()).await;
    let is = |event: &Value, message: &str| {
        let fields = &event["fields"];
        fields["message"] == message && fields["servers"] == "web1"
    };
    let queueing = |event: &Value| is(event, "servers full: queueing connections");
    lb.wait_log(queueing, DEADLINE).await;
    let mut refused = tcp(lb.main()).await;
    assert!(read_to_close(&mut refused).await.unwrap().is_empty());
    let refusing = |event: &Value| is(event, "servers full: refusing connections");
    lb.wait_log(refusing, DEADLINE).await;
    drop(held);
    read_line(&mut waiting).await.unwrap();
    drop(waiting);
    let end = |event: &Value| is(event, "servers no longer full");
    let end = lb.wait_log(end, DEADLINE).await;
    assert_eq!(end["fields"]["queued"], 1, "{end}");
    lb.quiet().await;
}

#[tokio::test]
async fn recovered_server_is_logged_before_its_upstream() {
    let web = Upstream::named("web1").await;
    let probes = "health_check = { type = \"tcp\", interval = \"100ms\", fall = 1, rise = 1 }";
    let lb = site(&[probes], &entries(&[&web])).start().await;
    let is = |event: &Value, message: &str| event["fields"]["message"] == message;
    web.stop(OpenConnections::Close).await;
    let panic = "all servers unavailable: connecting to any of them";
    lb.wait_log(|event| is(event, panic), DEADLINE).await;
    web.restart().await;
    let again = "server available again";
    lb.wait_log(|event| is(event, again), DEADLINE).await;
    let log = lb.stderr();
    let end = &log[log.find(panic).unwrap()..];
    assert!(
        end.find("\"server up\"").unwrap() < end.find(again).unwrap(),
        "{log}"
    );
    lb.quiet().await;
}
