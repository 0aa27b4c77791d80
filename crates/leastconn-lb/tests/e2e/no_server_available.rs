//! If no server is available for a client, the balancer retries, dials unavailable servers, or
//! refuses the connection. A connection that waits for a server ends if the rule is removed
//! or the balancer shuts down.

use std::{sync::Arc, time::Duration};

use leastconn_testkit::{
    Behaviour, DEADLINE, Signal, Upstream, client::read_to_close, upstream::OpenConnections, within,
};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::ctl::{SOCKET, ctl};
use crate::support::{CLIENT1, TLS};
use crate::support::{
    NO_PROBES, Running, Site, cn, entries, entry, refused, refusing_address, talk, tcp,
};

const PANIC: &str = r#"leastconn_upstream_panic{upstream="web"}"#;

async fn start(servers: &[String], lines: &[&str]) -> Running {
    Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", lines, servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await
}

/// Opens 100 connections per second until `until` completes, and asserts that all of them
/// are served. Returns their number.
async fn assert_all_served(lb: &Running, until: impl Future<Output = ()>) -> usize {
    let mut clients = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    tokio::pin!(until);
    let mut opened = 0;
    loop {
        tokio::select! {
            () = &mut until => break,
            _ = tick.tick() => {
                let addr = lb.main();
                clients.spawn(async move { talk(tcp(addr).await).await });
                opened += 1;
            }
        }
    }
    let served = within(DEADLINE, "all clients", clients.join_all()).await;
    let failed: Vec<_> = served.iter().filter(|talk| talk.is_err()).collect();
    let records = lb.wait_records(opened).await;
    let bad: Vec<_> = records.iter().filter(|r| r["outcome"] != "ok").collect();
    assert!(failed.is_empty() && bad.is_empty(), "{failed:?}\n{bad:#?}");
    opened
}

/// Makes the server refuse connections for 300 ms.
async fn refuse_briefly(server: &Upstream) {
    server.stop(OpenConnections::Keep).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.restart().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_outage_of_the_only_server_is_retried() {
    let web = Upstream::named("web1").await;
    let lb = start(&entries(&[&web]), &[]).await;
    let opened = assert_all_served(&lb, async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            refuse_briefly(&web).await;
        }
    });
    assert!(opened.await > 50);
    let retried = |record: &&Value| record["attempts"].as_u64() > Some(1);
    assert!(lb.records().iter().filter(retried).count() > 10);
    lb.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alternating_refusals_are_retried() {
    let names = ["a", "b", "c", "d"];
    let mut servers = Vec::new();
    for name in names {
        servers.push(Upstream::named(name).await);
    }
    let all: Vec<_> = servers.iter().collect();
    let lb = start(&entries(&all), &[]).await;
    let opened = assert_all_served(&lb, async {
        for server in servers.iter().cycle().take(8) {
            refuse_briefly(server).await;
        }
    });
    assert!(opened.await > 100);
    lb.quiet().await;
}

/// A site whose only server refuses connections, so that clients wait for a server.
fn site_without_servers(listener: &[&str]) -> Site {
    Site::new().listener("main", listener).upstream(
        "web",
        &[NO_PROBES, "retry_for = \"1h\""],
        &[entry("web1", refusing_address(), "")],
    )
}

#[tokio::test]
async fn ejected_server_is_dialled_if_no_other_is_allowed() {
    let [web1, web2] = [Upstream::named("web1").await, Upstream::named("web2").await];
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(
            "web",
            &[
                NO_PROBES,
                "passive = { fail_timeout = \"1h\" }",
                "retry_for = \"0s\"",
            ],
            &entries(&[&web1, &web2]),
        )
        .client("local", "source = \"127.0.0.0/8\"", "web/web2", "")
        .start()
        .await;
    web2.stop(OpenConnections::Close).await;
    for n in 0..3 {
        assert!(
            read_to_close(&mut tcp(lb.main()).await)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(lb.expect_record(n, "connect_failed").await["attempts"], 1);
    }
    lb.wait_metric(
        r#"leastconn_server_up{upstream="web",server="web2"}"#,
        0.0,
        DEADLINE,
    )
    .await;
    // `web1` is available, so the balancer dials no other server.
    assert_eq!(lb.metrics().await[PANIC], 0.0);
    let is_logged = |event: &Value| event.to_string().contains("dialling an unavailable server");
    lb.wait_log(is_logged, DEADLINE).await;
    assert_eq!(
        lb.stderr()
            .matches("dialling an unavailable server")
            .count(),
        1
    );
    web2.restart().await;
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web2");
    lb.expect_record(3, "ok").await;
    lb.wait_metric(
        r#"leastconn_server_up{upstream="web",server="web2"}"#,
        1.0,
        DEADLINE,
    )
    .await;
    lb.quiet().await;
}

#[tokio::test]
async fn down_servers_are_dialled_if_none_is_available() {
    let [web1, web2] = [Upstream::named("web1").await, Upstream::named("web2").await];
    let health = Upstream::start(Behaviour::Http(503)).await;
    let check = format!(
        "health_check = {{ type = \"http\", port = {}, interval = \"100ms\", fall = 1, rise = 1 }}",
        health.addr().port()
    );
    let lb = start(&entries(&[&web1, &web2]), &[&check]).await;
    lb.wait_metric(PANIC, 1.0, DEADLINE).await;
    lb.wait_log(
        |event| {
            event
                .to_string()
                .contains("all servers unavailable: connecting to any of them")
        },
        DEADLINE,
    )
    .await;
    talk(tcp(lb.main()).await).await.unwrap();
    assert_eq!(lb.expect_record(0, "ok").await["attempts"], 1);
    health.set_behaviour(Behaviour::Http(200));
    lb.wait_metric(PANIC, 0.0, DEADLINE).await;
    lb.wait_log(
        |event| event.to_string().contains("server available again"),
        DEADLINE,
    )
    .await;
    lb.quiet().await;
}

#[tokio::test]
async fn panic_refuse_dials_no_unavailable_server() {
    let web = Upstream::named("web1").await;
    let lb = start(
        &entries(&[&web]),
        &[
            NO_PROBES,
            "panic = \"refuse\"",
            "retry_for = \"0s\"",
            "passive = { fail_timeout = \"1h\", max_ejected = 1.0 }",
        ],
    )
    .await;
    web.stop(OpenConnections::Close).await;
    let _ = read_to_close(&mut tcp(lb.main()).await).await;
    lb.expect_record(0, "connect_failed").await;
    web.restart().await;
    let _ = read_to_close(&mut tcp(lb.main()).await).await;
    let record = lb.expect_record(1, "no_server_available").await;
    assert_eq!(record["attempts"], 0);
    assert_eq!(lb.metrics().await[PANIC], 1.0);
    lb.quiet().await;
}

#[tokio::test]
async fn removed_rule_ends_a_waiting_connection() {
    let lb = site_without_servers(&["upstream = \"web\"", TLS])
        .client("client1", &cn(CLIENT1), "web", "max_conns = 1")
        .start()
        .await;
    let client = Arc::new(lb.client(CLIENT1));
    let addr = lb.main();
    let waiting = {
        let client = Arc::clone(&client);
        tokio::spawn(async move { refused(&client, addr).await })
    };
    let failures = r#"leastconn_server_connect_failures_total{upstream="web",server="web1"}"#;
    leastconn_testkit::eventually(DEADLINE, || async {
        let failed = lb.metrics().await[&leastconn_testkit::metrics::normalise(failures)];
        (failed >= 2.0).then_some(()).ok_or(failed.to_string())
    })
    .await
    .unwrap();
    // The waiting connection counts as a connection of its client, but not of the server.
    let active = r#"leastconn_server_connections_active{upstream="web",server="web1"}"#;
    lb.wait_metric(active, 0.0, DEADLINE).await;
    refused(&client, addr).await;
    lb.expect_record(0, "too_many_connections").await;
    let config = lb.config().replace(CLIENT1, "client2.lb.com");
    assert_eq!(lb.reload(&config).await, "applied");
    let record = lb.expect_record(1, "policy_changed").await;
    assert!(record["attempts"].as_u64() >= Some(2), "{record}");
    within(DEADLINE, "the client", waiting).await.unwrap();
    lb.quiet().await;
}

/// A connection that waits for a server has no slot yet, and its TLS session is open.
#[tokio::test]
async fn kill_and_revocation_end_waiting_connections() {
    let lb = site_without_servers(&["upstream = \"web\"", TLS])
        .admin(SOCKET)
        .client("all", "cn = \"*.lb.com\"", "web", "")
        .start()
        .await;
    let certs = ["killed.lb.com", "revoked.lb.com"].map(|name| lb.ca().leaf(name).build());
    let mut waiting = Vec::new();
    for cert in &certs {
        let client = lb.client_with(cert);
        let mut stream = client.connect(lb.main()).await.unwrap();
        waiting.push(tokio::spawn(
            async move { read_to_close(&mut stream).await },
        ));
    }
    let active = r#"leastconn_connections_active{listener="main"}"#;
    lb.wait_metric(active, 2.0, DEADLINE).await;
    // With TLS 1.3, the client is connected before the balancer has authorized it.
    leastconn_testkit::eventually(DEADLINE, || async {
        let (_, body) = lb.http_get("/api/v1/connections").await;
        let authorized = body.matches("\"identity\":\"cn:").count();
        (authorized == 2).then_some(()).ok_or(body)
    })
    .await
    .unwrap();
    ctl(&lb, &["kill", "--identity", "cn:killed.lb.com"])
        .await
        .ok();
    let record = lb.expect_record(0, "killed").await;
    assert_eq!(record["identity"], "cn:killed.lb.com", "{record}");
    lb.wait_metric(active, 1.0, DEADLINE).await;

    lb.ca().write_crl(lb.dir(), &[&certs[1]]);
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    let record = lb.expect_record(1, "revoked_certificate").await;
    assert_eq!(record["identity"], "cn:revoked.lb.com", "{record}");
    for client in waiting {
        let received = within(DEADLINE, "the client", client).await.unwrap();
        assert!(received.unwrap_or_default().is_empty());
    }
    lb.quiet().await;
}

#[tokio::test]
async fn shutdown_ends_waiting_connections() {
    let lb = site_without_servers(&["upstream = \"web\""])
        .process("drain_timeout = \"200ms\"")
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    let mut client = tcp(lb.main()).await;
    let active = r#"leastconn_client_connections_active{client="local"}"#;
    lb.wait_metric(active, 1.0, DEADLINE).await;
    lb.signal(Signal::TERM);
    let _ = read_to_close(&mut client).await;
    lb.expect_record(0, "drained").await;
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(1));
}
