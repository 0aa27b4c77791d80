//! Ejection of servers that accept connections and close them immediately.

use leastconn_testkit::client::read_line;
use leastconn_testkit::{Behaviour, DEADLINE, Upstream, eventually};

use tokio::net::TcpStream;

use crate::ctl::{SOCKET, ctl};
use crate::support::{NO_PROBES, Running, Site, entries, talk, tcp};

const TCP_PROBES: &str = r#"health_check = { interval = "100ms", rise = 1, fall = 1 }"#;

/// Starts several servers. The first one has the behaviour `first`, and the others send their
/// names.
async fn start(first: Behaviour, lines: &[&str]) -> (Vec<Upstream>, Running) {
    let mut servers = vec![Upstream::start(first).await];
    for number in 2..=4 {
        servers.push(Upstream::named(&format!("web{number}")).await);
    }
    let all: Vec<_> = servers.iter().collect();
    let lb = Site::new()
        .admin(SOCKET)
        .listener("main", &["upstream = \"web\""])
        .upstream("web", lines, &entries(&all))
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    (servers, lb)
}

/// Opens a connection and returns it with the name of its server. Returns `None` if the server
/// closed the connection.
async fn connect(lb: &Running) -> Option<(String, TcpStream)> {
    let mut stream = tcp(lb.main()).await;
    let name = read_line(&mut stream).await.ok()?;
    Some((name, stream))
}

#[tokio::test]
async fn server_that_closes_at_once_is_ejected() {
    for behaviour in [Behaviour::AcceptThenClose, Behaviour::AcceptThenReset] {
        for probes in [NO_PROBES, TCP_PROBES] {
            let (_servers, lb) = start(behaviour.clone(), &[probes]).await;
            let (mut failed, mut open) = (0_u32, Vec::new());
            for _ in 0..150 {
                match connect(&lb).await {
                    Some(connection) => open.push(connection),
                    None => failed += 1,
                }
            }
            assert!(failed <= 5, "{failed} of 150: {behaviour:?}, {probes}");
            let shown = ctl(&lb, &["servers"]).await.ok();
            if matches!(behaviour, Behaviour::AcceptThenReset) {
                // A reset may also fail a connect, or each second probe.
                let is_shown = shown.contains("web/web1 is ");
                assert!(is_shown || probes == TCP_PROBES, "{shown}");
                continue;
            }
            assert!(shown.contains("web/web1 is ejected since "), "{shown}");
            assert!(shown.contains(" until "), "{shown}");
            let failures = r#"leastconn_server_early_failures_total{upstream="web",server="web1"}"#;
            lb.wait_metric(failures, failed.into(), DEADLINE).await;
        }
    }
}

#[tokio::test]
async fn ejection_ends_when_the_server_serves_again() {
    let passive = r#"passive = { max_early = 2, fail_timeout = "100ms" }"#;
    let (servers, lb) = start(Behaviour::AcceptThenClose, &[NO_PROBES, passive]).await;
    let up = r#"leastconn_server_up{upstream="web",server="web1"}"#;
    eventually(DEADLINE, || async {
        connect(&lb).await;
        let ejected = lb.metrics().await[&leastconn_testkit::metrics::normalise(up)] == 0.0;
        if ejected {
            Ok(())
        } else {
            Err("still up".to_owned())
        }
    })
    .await
    .unwrap();
    lb.wait_log(
        |event| {
            let fields = &event["fields"];
            fields["message"] == "server ejected"
                && fields["upstream"] == "web"
                && fields["reason"] == "closed connections without sending data"
        },
        DEADLINE,
    )
    .await;
    servers[0].set_behaviour(Behaviour::Named("web1".to_owned()));
    eventually(DEADLINE, || async {
        match connect(&lb).await {
            Some((name, _)) if name == "web1" => Ok(()),
            _ => Err("another server".to_owned()),
        }
    })
    .await
    .unwrap();
    lb.wait_metric(up, 1.0, DEADLINE).await;
    lb.quiet().await;
}

#[tokio::test]
async fn servers_that_all_close_at_once_stay_up() {
    let (servers, lb) = start(Behaviour::AcceptThenClose, &[NO_PROBES]).await;
    for server in &servers {
        server.set_behaviour(Behaviour::AcceptThenClose);
    }
    for _ in 0..60 {
        assert!(connect(&lb).await.is_none());
    }
    let spread: Vec<_> = servers.iter().map(Upstream::accepted).collect();
    assert!(spread.iter().all(|&count| count >= 8), "{spread:?}");
    for server in &servers {
        server.set_behaviour(Behaviour::Named("recovered".to_owned()));
    }
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "recovered");
    lb.quiet().await;
}
