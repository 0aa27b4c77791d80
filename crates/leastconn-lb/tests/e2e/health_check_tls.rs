//! Health checks use the same TLS settings as connections: a server with a wrong
//! certificate is down, and the log contains the reason.

use leastconn_testkit::{Behaviour, DEADLINE, TestCa, Upstream};

use crate::support::tls_servers::{MUTUAL, Servers, VERSIONS};
use crate::support::{Running, entry, tcp};

const UP: &str = r#"leastconn_server_up{upstream="web",server="web1"}"#;

/// Returns the lines of an upstream with this health check.
///
/// At the end of a check that exchanges no data, the balancer waits up to a quarter of
/// `timeout` for the server to reject the balancer's certificate.
fn check(what: &str, timeout: &str) -> String {
    format!(
        "health_check = {{ {what}, interval = \"100ms\", timeout = \"{timeout}\", rise = 1, fall = 1 }}\npanic = \"refuse\"\nretry_for = \"0s\""
    )
}

async fn start(servers: &Servers, check: &str, web: &Upstream) -> Running {
    servers
        .site(&[check, MUTUAL], &[entry("web1", web.addr(), "")])
        .start()
        .await
}

#[tokio::test]
async fn health_checks_use_mutual_tls() {
    let servers = Servers::new();
    for (version, version_of_server) in VERSIONS {
        for (behaviour, what, ill) in [
            (
                Behaviour::Http(200),
                r#"type = "http", path = "/healthz""#,
                Some(Behaviour::Http(503)),
            ),
            (
                Behaviour::Echo,
                r#"type = "tcp", send = "PING", expect = "PING""#,
                Some(Behaviour::Source { bytes: 10 }),
            ),
            (Behaviour::Echo, r#"type = "tcp""#, None),
            // A server is healthy even if it does not close the connection after the balancer.
            (Behaviour::Stuck, r#"type = "tcp""#, None),
        ] {
            let web = servers.mutual(behaviour, version_of_server).await;
            let lb = start(&servers, &check(what, "4s"), &web).await;
            // The second connection arrives only after the first check has ended.
            web.wait_accepted(2).await;
            lb.wait_metric(UP, 1.0, DEADLINE).await;
            assert!(
                !lb.stderr().contains("health check failed"),
                "{version} {what}: {}",
                lb.stderr()
            );
            if let Some(ill) = ill {
                web.set_behaviour(ill);
                lb.wait_metric(UP, 0.0, DEADLINE).await;
            }
            lb.quiet().await;
        }
    }
}

#[tokio::test]
async fn wrong_certificate_takes_the_server_down() {
    let servers = Servers::new();
    let stranger = TestCa::new("other CA");
    let expired = servers
        .ca
        .leaf("web")
        .dns("web.internal")
        .validity(-7200, -3600)
        .build();
    for (version, version_of_server) in VERSIONS {
        for what in [r#"type = "tcp""#, r#"type = "http""#] {
            for (cert, client_ca, reason) in [
                (&expired, &servers.ca, "the server's certificate expired at"),
                (
                    &servers.cert(),
                    &stranger,
                    "the server refuses our certificate",
                ),
            ] {
                let behaviour = Behaviour::Http(200);
                let client_ca = Some(client_ca);
                let web =
                    Upstream::start_tls_versions(behaviour, cert, client_ca, &[version_of_server])
                        .await;
                let lb = start(&servers, &check(what, "20s"), &web).await;
                lb.wait_metric(UP, 0.0, DEADLINE).await;
                let down = lb
                    .wait_log(
                        |line| line.to_string().contains("\"server down\""),
                        DEADLINE,
                    )
                    .await;
                assert!(
                    down.to_string().contains(reason),
                    "{version} {what}: {down}\n  should contain: {reason}"
                );
                let asked = web.accepted();
                drop(tcp(lb.address("plain")).await);
                lb.expect_record(0, "no_server_available").await;
                web.wait_accepted(asked + 2).await;
                let log = lb.stderr();
                let warnings = log.matches("server TLS failed").count();
                assert_eq!(warnings, 1, "{version} {what}: {log}");
                lb.quiet().await;
            }
        }
    }
}
