//! `explain` takes routes and the state of the servers into account.

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{DEADLINE, Upstream, eventually, upstream::OpenConnections};
use serde_json::Value;

use crate::ctl::{SOCKET, ctl, program};
use crate::support::{NO_PROBES, Running, Site, TLS, cn, entries, entry, tcp};

const PROBES: &str = r#"health_check = { type = "tcp", interval = "100ms", fall = 1, rise = 1 }"#;

fn site(lines: &[&str], servers: &[String]) -> Site {
    Site::new()
        .admin(SOCKET)
        .listener("main", &["upstream = \"web\""])
        .upstream("web", lines, servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
}

/// Asserts the verdict of `explain` with its exit code, and that the output contains `more`.
async fn assert_verdict(lb: &Running, code: i32, verdict: &str, more: &str) {
    let explained = program(lb.dir(), &["explain", "--source", "127.0.0.1"]).await;
    let out = explained.stdout;
    assert_eq!(explained.code, code, "{out}");
    assert!(out.contains(&format!("verdict      {verdict}")), "{out}");
    assert!(out.contains(more), "{out}");
}

async fn wait_down(lb: &Running, server: &str) {
    let is_down = |event: &Value| {
        let fields = &event["fields"];
        fields["message"] == "server down" && fields["server"] == server
    };
    lb.wait_log(is_down, DEADLINE).await;
}

#[tokio::test]
async fn unavailable_servers_change_the_verdict() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let servers = entries(&[&webs[0], &webs[1]]);
    let lb = site(&[PROBES, "panic = \"refuse\""], &servers)
        .start()
        .await;
    let accepted = "ok: the connection is accepted";
    assert_verdict(&lb, 0, accepted, "servers      web1, web2\n").await;
    ctl(&lb, &["drain", "web/web2"]).await.ok();
    assert_verdict(&lb, 0, accepted, "servers      web1, web2 (drain)\n").await;
    webs[0].stop(OpenConnections::Close).await;
    wait_down(&lb, "web1").await;
    let refused = "no_server_available: none of the allowed servers is available\n";
    let down = "servers      web1 (down: Connection refused";
    assert_verdict(&lb, 1, refused, down).await;
    let mut stream = tcp(lb.main()).await;
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    let record = lb.expect_record(0, "no_server_available").await;
    assert_eq!(record["detail"], "none of the allowed servers is available");
    lb.quiet().await;
}

#[tokio::test]
async fn down_servers_that_are_dialled_are_explained() {
    let web = Upstream::named("web1").await;
    let lb = site(&[PROBES], &entries(&[&web])).start().await;
    web.stop(OpenConnections::Close).await;
    wait_down(&lb, "web1").await;
    let failed = "connect_failed: none of the allowed servers is up. They are dialled nevertheless";
    assert_verdict(&lb, 1, failed, "(down: Connection refused").await;
    lb.quiet().await;
}

/// The servers accept connections, but do not answer the health check as expected.
#[tokio::test]
async fn failing_servers_that_accept_are_explained() {
    let web = Upstream::named("web1").await;
    let probes = PROBES.replace("\"tcp\"", "\"http\"");
    let lb = site(&[&probes], &entries(&[&web])).start().await;
    wait_down(&lb, "web1").await;
    let accepted =
        "ok: the connection is accepted; none of the allowed servers is up, but they accept";
    assert_verdict(&lb, 0, accepted, "web1 (down: ").await;
    let mut stream = tcp(lb.main()).await;
    assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
    drop(stream);
    lb.quiet().await;
}

#[tokio::test]
async fn full_servers_change_the_verdict() {
    let web = Upstream::named("web1").await;
    let servers = [entry("web1", web.addr(), ", max_conns = 1")];
    let lb = site(&[NO_PROBES], &servers).start().await;
    let mut held = tcp(lb.main()).await;
    read_line(&mut held).await.unwrap();
    let full = "no_server_available: the only allowed server is at `max_conns`\n";
    let servers = "servers      web1 (1 connection, at max_conns)\n";
    assert_verdict(&lb, 1, full, servers).await;
    drop(held);
    let recovered = eventually(DEADLINE, || async {
        let explained = program(lb.dir(), &["explain", "--source", "127.0.0.1"]).await;
        (explained.code == 0).then_some(()).ok_or(explained.stdout)
    });
    recovered.await.unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn routes_are_listed_with_the_assumed_upstream() {
    let (web, db) = (Upstream::named("web1").await, Upstream::named("db1").await);
    let routes = "routes = [{ sni = \"db.lb.com\", upstream = \"db\" }]";
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", routes, TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("db", &[NO_PROBES], &entries(&[&db]))
        .client("c", &cn("c.lb.com"), "db", "")
        .start()
        .await;
    lb.ca().leaf("c.lb.com").build().write(lb.dir(), "c");
    for (sni, code, routed) in [
        (
            &[][..],
            1,
            "routed to    upstream `web`, because no server name is given (set it with --sni)\n",
        ),
        (
            &["--sni", "db.lb.com"],
            0,
            "routed to    upstream `db`, by its route\n",
        ),
        (
            &["--sni", "x.lb.com"],
            1,
            "routed to    upstream `web`, because no route matches `x.lb.com`\n",
        ),
    ] {
        let args = [&["explain", "--cert", "c.crt"], sni].concat();
        let explained = program(lb.dir(), &args).await;
        assert_eq!(explained.code, code, "{explained:?}");
        let out = explained.stdout;
        assert!(out.contains("routes       db.lb.com: db\n"), "{out}");
        assert!(out.contains(routed), "{out}");
    }
    lb.quiet().await;
}
