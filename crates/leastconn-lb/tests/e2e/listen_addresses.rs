//! Listeners with IPv4 and IPv6 addresses, and with several addresses.

use std::net::SocketAddr;

use leastconn_testkit::Upstream;
use serde_json::Value;

use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, talk, tcp};

pub(crate) fn addresses(lb: &Running, listener: &str) -> Vec<SocketAddr> {
    let log = lb.stderr();
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|event| event["fields"]["message"] == "listening")
        .filter(|event| event["fields"]["listener"] == listener)
        .map(|event| {
            event["fields"]["address"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect()
}

#[tokio::test]
async fn ipv4_and_ipv6_listeners_coexist() {
    let [web, other] = [Upstream::named("web").await, Upstream::named("other").await];
    let binds = r#"bind = ["127.0.0.1:0", "[::1]:0", "127.0.0.2:0"]"#;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", binds, TLS])
        .listener("other", &["upstream = \"other\"", "bind = \"[::1]:0\""])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("other", &[NO_PROBES], &entries(&[&other]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("six", "source = \"::1\"", "other", "")
        .start()
        .await;
    let main = addresses(&lb, "main");
    assert_eq!(main.len(), 3);
    assert_eq!(main.iter().filter(|addr| addr.is_ipv6()).count(), 1);
    for (n, addr) in main.into_iter().enumerate() {
        let stream = lb.client(CLIENT1).connect(addr).await.unwrap();
        assert_eq!(talk(stream).await.unwrap(), "web");
        let record = lb.expect_record(n, "ok").await;
        assert_eq!(record["listener"], "main");
        let source: SocketAddr = record["source"].as_str().unwrap().parse().unwrap();
        assert_eq!(source.is_ipv6(), addr.is_ipv6());
    }
    let stream = tcp(lb.address("other")).await;
    assert_eq!(talk(stream).await.unwrap(), "other");
    let record = lb.expect_record(3, "ok").await;
    assert_eq!(record["identity"], "source:::1");
    lb.quiet().await;
}

/// On a dual-stack socket, IPv4 clients have mapped IPv6 addresses, but are treated as IPv4
/// clients.
#[tokio::test]
async fn ipv4_client_of_an_ipv6_wildcard_stays_ipv4() {
    let web = Upstream::named("web").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", "bind = \"[::]:0\""])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("four", "source = \"127.0.0.0/8\"", "web", "")
        .client("six", "source = \"::1\"", "web", "")
        .start()
        .await;
    let port = lb.main().port();
    for (n, (host, client)) in [("127.0.0.1", "four"), ("[::1]", "six")]
        .into_iter()
        .enumerate()
    {
        let addr = format!("{host}:{port}").parse().unwrap();
        talk(tcp(addr).await).await.unwrap();
        let record = lb.expect_record(n, "ok").await;
        assert_eq!(record["client"], client);
        assert!(
            record["source"].as_str().unwrap().starts_with(host),
            "{record}"
        );
    }
    lb.quiet().await;
}

#[tokio::test]
async fn servers_may_have_names_or_ipv6_addresses() {
    let four = Upstream::named("by-name").await;
    let six = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
    let six_addr = six.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = six.accept().await {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let _ = stream.write_all(b"by-six\n").await;
            let mut five = [0; 5];
            if stream.read_exact(&mut five).await.is_ok() {
                let _ = stream.write_all(&five).await;
            }
            let _ = stream.read(&mut five).await;
        }
    });
    let servers = [
        format!(
            "{{ name = \"a\", address = \"localhost:{}\" }}",
            four.addr().port()
        ),
        format!("{{ name = \"b\", address = \"{six_addr}\" }}"),
    ];
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &servers)
        .client("local", "source = \"127.0.0.1\"", "web", "")
        .start()
        .await;
    let mut names = Vec::new();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = tcp(lb.main()).await;
        names.push(
            leastconn_testkit::client::read_line(&mut stream)
                .await
                .unwrap(),
        );
        held.push(stream);
    }
    names.sort();
    assert_eq!(names, ["by-name", "by-six"]);
    drop(held);
    lb.quiet().await;
}
