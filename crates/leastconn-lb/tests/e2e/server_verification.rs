//! A server that fails the verification of `[[upstream]] tls` gets no data. The balancer
//! tries another server, and logs the reason once.

use std::io::ErrorKind;
use std::net::SocketAddr;

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{Behaviour, Cert, DEADLINE, TestCa, Upstream, within};
use rustls::version::TLS12;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::tls_servers::{BY_HOST, MUTUAL, Servers, VERSIONS};
use crate::support::{NO_PROBES, Running, entry, tcp};

/// Failing servers are not ejected, so each connection tries them again.
const NO_EJECTION: &str = "passive = { max_fails = 0 }\nretry_for = \"0s\"";

fn named(name: &str) -> Behaviour {
    Behaviour::Named(name.to_owned())
}

/// Connects a client, and asserts that the connection reaches no server.
async fn assert_refused(lb: &Running) -> Value {
    let n = lb.records().len();
    let mut stream = tcp(lb.address("plain")).await;
    // Writing may fail: the balancer sends a RST if it has not read the client's data.
    let _ = stream.write_all(b"secret").await;
    assert!(
        read_to_close(&mut stream)
            .await
            .unwrap_or_default()
            .is_empty()
    );
    lb.expect_record(n, "connect_failed").await
}

async fn greeting(lb: &Running) -> (String, Value) {
    let n = lb.records().len();
    let mut stream = tcp(lb.address("plain")).await;
    let name = read_line(&mut stream).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    (name, lb.expect_record(n, "ok").await)
}

/// Waits for a warning about TLS to a server, and returns all of them.
async fn warnings(lb: &Running) -> Vec<String> {
    let warning = |event: &Value| event.to_string().contains("server TLS failed");
    lb.wait_log(warning, DEADLINE).await;
    lb.stderr()
        .lines()
        .filter(|line| line.contains("server TLS failed"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn each_certificate_fault_is_logged() {
    let servers = Servers::new();
    let leaf = || servers.ca.leaf("web").dns("web.internal");
    let other = TestCa::new("other CA");
    let namesake = TestCa::new("servers' CA");
    let cases: [(Cert, &str); 11] = [
        (
            servers.ca.leaf("web").dns("db.internal").build(),
            "is not for `web.internal`: it is for db.internal",
        ),
        (
            servers.ca.leaf("web").dns("127.0.0.1").build(),
            "it is for 127.0.0.1 (an IP address given as a DNS name)",
        ),
        (
            // A common name does not count as the name of a server.
            servers.ca.leaf("web.internal").build(),
            "is not for `web.internal`: it has no subject alternative name",
        ),
        (
            other.leaf("web").dns("web.internal").build(),
            "was not issued by an authority of `ca`",
        ),
        (
            namesake.leaf("web").dns("web.internal").build(),
            "but another CA with the same name signed it",
        ),
        (
            leaf().self_signed().build(),
            "was not issued by an authority of `ca`",
        ),
        (leaf().validity(-7200, -3600).build(), "expired at 20"),
        (
            leaf().validity(3600, 7200).build(),
            "is not valid before 20",
        ),
        (leaf().eku_client_only().build(), "is not for servers"),
        (
            leaf().version_1().build(),
            "is of X.509 version 1, which is not supported: issue it again",
        ),
        (
            servers.ca.cert().clone(),
            "is a CA certificate (CA:TRUE): issue one with CA:FALSE",
        ),
    ];
    for (version, spoken) in VERSIONS {
        for (cert, expected) in &cases {
            let bad = Upstream::start_tls_versions(named("bad"), cert, None, &[spoken]).await;
            let lb = servers
                .site(
                    &[NO_PROBES, NO_EJECTION, MUTUAL],
                    &[entry("web1", bad.addr(), "")],
                )
                .start()
                .await;
            for _ in 0..3 {
                let record = assert_refused(&lb).await;
                let detail = record["detail"].as_str().unwrap();
                assert!(
                    detail.contains("the server's certificate") && detail.contains(expected),
                    "{version}: {detail}\n  should contain: {expected}"
                );
                assert_eq!(record["attempts"], 1);
                assert_eq!(record["bytes_received"], 0);
                assert!(record.get("server").is_none(), "{record}");
            }
            let warnings = warnings(&lb).await;
            assert_eq!(warnings.len(), 1, "{warnings:#?}");
            let line: Value = serde_json::from_str(&warnings[0]).unwrap();
            assert!(line.to_string().contains("web1"), "{line}");
            bad.wait_open(0).await;
            lb.quiet().await;
        }
    }
}

/// A self-signed certificate in `ca` is trusted only for its own server: its key cannot
/// issue certificates for other servers.
#[tokio::test]
async fn self_signed_certificate_covers_one_server() {
    let servers = Servers::new();
    let own = || {
        servers
            .ca
            .leaf("web")
            .dns("web.internal")
            .self_signed()
            .build()
    };
    let (trusted, other) = (own(), own());
    let forged = TestCa::from_leaf(&trusted)
        .leaf("web")
        .dns("web.internal")
        .build();
    let issued = servers.cert();
    let elsewhere = servers
        .ca
        .leaf("db")
        .dns("db.internal")
        .self_signed()
        .build();
    for (version, spoken) in VERSIONS {
        for (cert, with_authority, expected) in [
            (&trusted, false, None),
            (&trusted, true, None),
            (&issued, true, None),
            (
                &issued,
                false,
                Some("was not issued by an authority of `ca`"),
            ),
            (&other, true, Some("was not issued by an authority of `ca`")),
            (
                &forged,
                true,
                Some("was issued by a certificate that is not a CA"),
            ),
            (
                &forged,
                false,
                Some("was not issued by an authority of `ca`"),
            ),
            (&elsewhere, true, Some("is not for `web.internal`")),
        ] {
            let web = Upstream::start_tls_versions(named("web1"), cert, None, &[spoken]).await;
            let site = servers.site(
                &[NO_PROBES, NO_EJECTION, MUTUAL],
                &[entry("web1", web.addr(), "")],
            );
            let mut authorities = trusted.cert_pem.clone() + &elsewhere.cert_pem;
            if with_authority {
                authorities += &servers.ca.cert_pem();
            }
            std::fs::write(site.dir.path().join("servers.crt"), authorities).unwrap();
            let lb = site.start().await;
            let Some(expected) = expected else {
                assert_eq!(greeting(&lb).await.0, "web1", "{version}");
                lb.quiet().await;
                continue;
            };
            let record = assert_refused(&lb).await;
            let detail = record["detail"].as_str().unwrap();
            assert!(
                detail.contains("the server's certificate") && detail.contains(expected),
                "{version}: {detail}\n  should contain: {expected}"
            );
            lb.quiet().await;
        }
    }
}

/// CRLs apply only to certificates that were issued by a CA.
#[tokio::test]
async fn self_signed_server_needs_no_crl() {
    const TLS: &str =
        r#"tls = { ca = "servers.crt", crl = "servers.crl", server_name = "web.internal" }"#;
    let servers = Servers::new();
    let leaf = servers.ca.leaf("web").dns("web.internal");
    let own = leaf.self_signed().build();
    let webs = [
        Upstream::start_tls(named("web1"), &own, None).await,
        Upstream::start_tls(named("web2"), &servers.cert(), None).await,
    ];
    let both = [
        entry("web1", webs[0].addr(), ""),
        entry("web2", webs[1].addr(), ""),
    ];
    let site = servers.site(
        &[NO_PROBES, "retries = 0", "balance = \"round_robin\"", TLS],
        &both,
    );
    let authorities = own.cert_pem.clone() + &servers.ca.cert_pem();
    std::fs::write(site.dir.path().join("servers.crt"), authorities).unwrap();
    let crl = site.dir.path().join("servers.crl");
    std::fs::write(crl, servers.ca.crl(&[])).unwrap();
    let lb = site.start().await;
    let mut names = [greeting(&lb).await.0, greeting(&lb).await.0];
    names.sort_unstable();
    assert_eq!(names, ["web1", "web2"]);
    assert!(!lb.stderr().contains("no CRL"), "{}", lb.stderr());
    lb.quiet().await;
}

#[tokio::test]
async fn certificate_must_cover_the_host_by_default() {
    let servers = Servers::new();
    let localhost = |addr: SocketAddr| {
        format!(
            "{{ name = \"web1\", address = \"localhost:{}\" }}",
            addr.port()
        )
    };
    let by_address = servers.ca.leaf("web").ip([127, 0, 0, 1]).build();
    let by_name = servers.ca.leaf("web").dns("localhost").build();
    for (cert, address_works, name_works) in [(&by_address, true, false), (&by_name, false, true)] {
        let web = Upstream::start_tls(named("web1"), cert, None).await;
        for (server, works, host) in [
            (entry("web1", web.addr(), ""), address_works, "127.0.0.1"),
            (localhost(web.addr()), name_works, "localhost"),
        ] {
            let lb = servers
                .site(&[NO_PROBES, NO_EJECTION, BY_HOST], &[server])
                .start()
                .await;
            if works {
                assert_eq!(greeting(&lb).await.0, "web1");
            } else {
                let record = assert_refused(&lb).await;
                let detail = record["detail"].as_str().unwrap();
                assert!(detail.contains(&format!("is not for `{host}`")), "{detail}");
            }
            lb.quiet().await;
        }
    }
}

#[tokio::test]
async fn revoked_and_outdated_servers_are_rejected() {
    let servers = Servers::new();
    let (good, revoked) = (servers.cert(), servers.cert());
    let lines = r#"tls = { ca = "servers.crt", crl = "servers.crl", server_name = "web.internal", min_version = "1.3" }"#;
    let web1 = Upstream::start_tls(named("web1"), &revoked, None).await;
    let web2 = Upstream::start_tls(named("web2"), &good, None).await;
    let old = Upstream::start_tls_versions(named("old"), &good, None, &[&TLS12]).await;
    let start = async |addr| {
        let site = servers.site(&[NO_PROBES, NO_EJECTION, lines], &[entry("web1", addr, "")]);
        let crl = servers.ca.crl(&[&revoked]);
        std::fs::write(site.dir.path().join("servers.crl"), crl).unwrap();
        site.start().await
    };
    for (addr, expected) in [
        (web1.addr(), "the server's certificate is revoked"),
        (
            old.addr(),
            "the server ended the connection with alert protocol_version",
        ),
    ] {
        let lb = start(addr).await;
        let record = assert_refused(&lb).await;
        assert!(
            record["detail"].as_str().unwrap().contains(expected),
            "{record}"
        );
        lb.quiet().await;
    }
    let lb = start(web2.addr()).await;
    assert_eq!(greeting(&lb).await.0, "web2");
    lb.quiet().await;
}

/// The client does not notice the failure. The failed server is ejected for some time.
#[tokio::test]
async fn failed_tls_is_retried_on_another_server() {
    let servers = Servers::new();
    let bad = servers.ca.leaf("web").dns("db.internal").build();
    let bad = Upstream::start_tls(named("bad"), &bad, None).await;
    let plain = Upstream::start(named("no TLS")).await;
    let failing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let failing_at = failing.local_addr().unwrap();
    let failing = tokio::spawn(async move {
        let mut count = 0;
        while let Ok((mut socket, _)) = failing.accept().await {
            // The server closes the connection in the middle of the handshake.
            socket.read_exact(&mut [0; 100]).await.unwrap();
            count += 1;
            drop(socket);
            if count == 1 {
                break;
            }
        }
        count
    });
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = servers.mutual(named("good"), VERSIONS[1].1).await;
    for (name, addr, expected) in [
        ("bad", bad.addr(), "is not for `web.internal`"),
        ("plain", plain.addr(), "does not speak TLS"),
        ("dying", failing_at, "Connection reset by peer"),
        ("silent", silent.local_addr().unwrap(), "no answer in time"),
    ] {
        // The working server is a backup server, so the balancer tries the failing server
        // first.
        let pair = [
            entry("web1", addr, ""),
            entry("web2", good.addr(), ", backup = true"),
        ];
        let lines = [NO_PROBES, MUTUAL, "connect_timeout = \"2s\""];
        let lb = servers.site(&lines, &pair).start().await;
        let (greeted, record) = greeting(&lb).await;
        assert_eq!(greeted, "good", "{name}");
        assert_eq!(record["attempts"], 2, "{name}: {record}");
        lb.wait_log(|event| event.to_string().contains(expected), DEADLINE)
            .await;
        lb.quiet().await;
    }
    assert_eq!(
        within(DEADLINE, "the failed handshake", failing)
            .await
            .unwrap(),
        1
    );
}

/// A TLS 1.2 server rejects the balancer's certificate during the handshake. A TLS 1.3
/// server rejects it after the balancer has finished the handshake.
#[tokio::test]
async fn rejection_of_our_certificate_is_logged() {
    let servers = Servers::new();
    let foreign = TestCa::new("other CA").leaf("lb").eku_client_only().build();
    let nothing = r#"tls = { ca = "servers.crt", server_name = "web.internal" }"#;
    for (version, spoken) in VERSIONS {
        let outcome = match version {
            "1.2" => "connect_failed",
            _ => "tls_error",
        };
        for (lines, expected) in [
            (nothing, "certificate"),
            (MUTUAL, "the server refuses our certificate"),
        ] {
            let web = servers.mutual(named("web1"), spoken).await;
            let site = servers.site(
                &[NO_PROBES, NO_EJECTION, lines],
                &[entry("web1", web.addr(), "")],
            );
            foreign.write(&site.dir, "lb");
            let lb = site.start().await;
            for n in 0..3 {
                let mut stream = tcp(lb.address("plain")).await;
                match read_to_close(&mut stream).await {
                    Ok(bytes) => assert!(bytes.is_empty() && version == "1.2"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                }
                let record = lb.expect_record(n, outcome).await;
                let detail = record["detail"].as_str().unwrap();
                assert!(detail.contains(expected), "{version}: {record}");
            }
            let warnings = warnings(&lb).await;
            assert_eq!(warnings.len(), 1, "{version}: {warnings:#?}");
            lb.quiet().await;
        }
    }
}

#[tokio::test]
async fn reload_replaces_the_upstream_authority() {
    let (servers, others) = (Servers::new(), Servers::new());
    let web = Upstream::start_tls(named("web1"), &servers.cert(), None).await;
    let lb = servers
        .site(
            &[NO_PROBES, NO_EJECTION, MUTUAL],
            &[entry("web1", web.addr(), "")],
        )
        .start()
        .await;
    assert_eq!(greeting(&lb).await.0, "web1");
    let file = lb.dir().join("servers.crt");
    std::fs::write(&file, others.ca.cert_pem()).unwrap();
    // The reload is applied although the previous CA issued the balancer's own certificate.
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    assert_refused(&lb).await;
    std::fs::write(&file, servers.ca.cert_pem()).unwrap();
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    assert_eq!(greeting(&lb).await.0, "web1");
    lb.quiet().await;
}
