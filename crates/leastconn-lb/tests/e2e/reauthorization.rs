//! Open connections are re-authorized when CAs, CRLs or rules change. Connections that are no
//! longer allowed end within a second. All other connections stay open.

use std::time::Duration;

use leastconn_testkit::client::{TlsStream, read_line, read_to_close, roundtrip};
use leastconn_testkit::{Cert, DEADLINE, Signal, TestCa, TlsClient, Upstream, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{
    CLIENT1, DEBUG_SLACK, NO_PROBES, Running, Site, TLS, cn, entries, refused, tcp,
};

type Open = TlsStream<TcpStream>;

async fn open(client: &TlsClient, lb: &Running) -> Open {
    let mut stream = client.connect(lb.main()).await.unwrap();
    assert!(read_line(&mut stream).await.unwrap().starts_with("web"));
    stream
}

/// Waits until the balancer has closed the connection.
async fn wait_closed(stream: &mut Open) {
    let mut rest = Vec::new();
    // The balancer may close with an error or a FIN, but must not send more data.
    let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

async fn assert_open(stream: &mut Open) {
    let bytes = vec![5; 50_000];
    assert!(roundtrip(stream, &bytes).await.unwrap() == bytes);
}

async fn close(mut stream: Open) {
    stream.shutdown().await.unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
}

/// Reloads, and returns the time until `stream` was closed.
async fn time_to_close(lb: &Running, config: &str, stream: &mut Open) -> Duration {
    lb.write_config(config);
    let start = Instant::now();
    lb.signal(Signal::HUP);
    wait_closed(stream).await;
    start.elapsed()
}

/// Revokes the certificate of one client while `many` other clients are connected.
async fn revoke_one_of(many: usize) {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .process("watch = \"off\"")
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("all", &cn("*.lb.com"), "web", "")
        .start()
        .await;
    let revoked: Cert = lb.ca().leaf("bad.lb.com").build();
    let mut bad = open(&lb.client_with(&revoked), &lb).await;
    let mut others = Vec::new();
    for n in 0..many {
        others.push(open(&lb.client(&format!("c{n}.lb.com")), &lb).await);
    }
    // Data that was sent before the reload is echoed after the reload.
    let word = b"before the reload";
    for stream in &mut others {
        stream.write_all(word).await.unwrap();
        stream.flush().await.unwrap();
    }
    lb.ca().write_crl(lb.dir(), &[&revoked]);
    let took = time_to_close(&lb, &lb.config(), &mut bad).await;
    assert!(took < Duration::from_secs(1) + DEBUG_SLACK, "{took:?}");
    let record = lb
        .wait_record(
            |record| record["outcome"] == "revoked_certificate",
            DEADLINE,
        )
        .await;
    assert_eq!(record["identity"], "cn:bad.lb.com");
    for stream in &mut others {
        let mut back = [0; 17];
        within(DEADLINE, "its answer", stream.read_exact(&mut back))
            .await
            .unwrap();
        assert_eq!(&back, word);
        assert_eq!(roundtrip(stream, b"after").await.unwrap(), b"after");
    }
    assert_eq!(lb.records().len(), 1);
    for stream in others {
        close(stream).await;
    }
    lb.quiet().await;
}

#[tokio::test]
async fn revoked_client_is_disconnected_within_a_second() {
    let long = std::env::var_os("LEASTCONN_LONG").is_some();
    revoke_one_of(if long { 8_000 } else { 500 }).await;
}

#[tokio::test]
async fn removed_authority_ends_its_clients() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let other = TestCa::new("other CA");
    let both = [site.ca.cert_pem(), other.cert_pem()].concat();
    std::fs::write(site.dir.path().join("ca.crt"), both).unwrap();
    let lists = [site.ca.crl(&[]), other.crl(&[])].concat();
    std::fs::write(site.dir.path().join("ca.crl"), lists).unwrap();
    let lb = site.process("watch = \"off\"").start().await;
    let mut ours = open(&lb.client(CLIENT1), &lb).await;
    let leaf = other.leaf(CLIENT1).build();
    let theirs = TlsClient::new(lb.ca(), Some(&leaf));
    let mut gone = open(&theirs, &lb).await;
    std::fs::write(lb.dir().join("ca.crt"), lb.ca().cert_pem()).unwrap();
    lb.ca().write_crl(lb.dir(), &[]);
    time_to_close(&lb, &lb.config(), &mut gone).await;
    lb.expect_record(0, "untrusted_certificate").await;
    assert_open(&mut ours).await;
    close(ours).await;
    lb.quiet().await;
}

#[tokio::test]
async fn changed_rules_end_only_forbidden_connections() {
    let servers = [Upstream::named("web1").await, Upstream::named("web2").await];
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&servers[0], &servers[1]]))
        .upstream("db", &[NO_PROBES], &entries(&[&servers[0]]))
        .client("one", &cn("one.lb.com"), "web", "max_conns = 5")
        .client("two", &cn("two.lb.com"), "web", "")
        .client("three", &cn("three.lb.com"), "web/web2", "")
        .client("db", &cn("db.lb.com"), "db", "")
        .start()
        .await;
    let mut one = open(&lb.client("one.lb.com"), &lb).await;
    let mut two = open(&lb.client("two.lb.com"), &lb).await;
    let mut three = open(&lb.client("three.lb.com"), &lb).await;

    // Changing the name or a limit of a rule ends no connection. Metrics use the new name.
    let renamed = lb
        .config()
        .replace("name = \"one\"", "name = \"uno\"")
        .replace("max_conns = 5", "max_conns = 1");
    assert_eq!(lb.reload(&renamed).await, "applied");
    for stream in [&mut one, &mut two, &mut three] {
        assert_open(stream).await;
    }
    lb.wait_metric(
        "leastconn_client_connections_active{client=\"uno\"}",
        1.0,
        DEADLINE,
    )
    .await;
    lb.wait_metric(
        "leastconn_client_connections_active{client=\"one\"}",
        0.0,
        DEADLINE,
    )
    .await;
    assert_eq!(refused(&lb.client("one.lb.com"), lb.main()).await, None);
    assert_eq!(
        lb.expect_record(0, "too_many_connections").await["client"],
        "uno"
    );

    // The rule is removed, which ends its connections.
    let without = renamed.replace("two.lb.com", "2.lb.com");
    time_to_close(&lb, &without, &mut two).await;
    assert_eq!(lb.expect_record(1, "policy_changed").await["client"], "two");
    assert_open(&mut one).await;
    assert_open(&mut three).await;

    // The rule no longer allows the server, which ends the connections to the server.
    let other_server = without.replace("web/web2", "web/web1");
    time_to_close(&lb, &other_server, &mut three).await;
    assert_eq!(
        lb.expect_record(2, "policy_changed").await["server"],
        "web2"
    );

    // Removing a server from an allowed upstream keeps the connections to the server open.
    let on = eventually(DEADLINE, async || {
        match [servers[0].open(), servers[1].open()] {
            [1, 0] => Ok(0),
            [0, 1] => Ok(1),
            open => Err(format!("{open:?}")),
        }
    });
    let on = on.await.unwrap();
    let gone = other_server
        .replacen(
            &entries(&[&servers[0], &servers[1]]).join(", "),
            &entries(&[&servers[0], &servers[1]])[1 - on],
            1,
        )
        .replace("web/web1", "web");
    assert_eq!(lb.reload(&gone).await, "applied");
    assert_open(&mut one).await;

    // The listener now uses another upstream.
    let rerouted = gone.replace("upstream = \"web\"\ntls", "upstream = \"db\"\ntls");
    assert_ne!(rerouted, gone);
    time_to_close(&lb, &rerouted, &mut one).await;
    assert_eq!(
        lb.expect_record(3, "policy_changed").await["upstream"],
        "web"
    );
    lb.quiet().await;
}

#[tokio::test]
async fn plain_clients_are_reauthorized_by_source() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web]).start().await;
    let mut stream = tcp(lb.main()).await;
    read_line(&mut stream).await.unwrap();
    assert_eq!(
        lb.reload(&lb.config().replace("127.0.0.0/8", "127.0.0.1"))
            .await,
        "applied"
    );
    assert_eq!(roundtrip(&mut stream, b"on").await.unwrap(), b"on");
    assert_eq!(
        lb.reload(&lb.config().replace("127.0.0.0/8", "10.0.0.0/8"))
            .await,
        "applied"
    );
    let _ = within(DEADLINE, "the close", stream.read_u8())
        .await
        .unwrap_err();
    lb.expect_record(0, "policy_changed").await;
    lb.quiet().await;
}

#[tokio::test]
async fn connections_of_removed_listeners_are_reauthorized() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web])
        .process("watch = \"off\"")
        .listener("second", &["upstream = \"web\"", TLS])
        .client("others", &cn("*.lb.com"), "web", "")
        .start()
        .await;
    let certs = ["a", "b", "c"].map(|name| lb.ca().leaf(&format!("{name}.lb.com")).build());
    let mut streams = Vec::new();
    for cert in &certs {
        let mut stream = lb
            .client_with(cert)
            .connect(lb.address("second"))
            .await
            .unwrap();
        read_line(&mut stream).await.unwrap();
        streams.push(stream);
    }
    let config = lb.config();
    let (head, tail) = config
        .split_once("[[listener]]\nname = \"second\"")
        .unwrap();
    let gone = format!("{head}{}", &tail[tail.find("[[client]]").unwrap()..]);
    assert_eq!(lb.reload(&gone).await, "applied");
    for stream in &mut streams {
        assert_open(stream).await;
    }
    lb.ca().write_crl(lb.dir(), &[&certs[0]]);
    time_to_close(&lb, &gone, &mut streams[0]).await;
    lb.expect_record(0, "revoked_certificate").await;
    let narrower = gone.replace("*.lb.com", "c.lb.com");
    time_to_close(&lb, &narrower, &mut streams[1]).await;
    lb.expect_record(1, "policy_changed").await;
    assert_open(&mut streams[2]).await;
    close(streams.pop().unwrap()).await;
    lb.expect_record(2, "ok").await;
    lb.quiet_with(-1).await;
}

/// Clients connect while their rule is added and removed. After a reload without the rule,
/// no client may stay connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_admitted_during_a_reload_is_reauthorized() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web]).start().await;
    let with = lb.config();
    let without = with.replace("127.0.0.0/8", "10.0.0.0/8");
    let addr = lb.main();
    for _ in 0..15 {
        assert_eq!(lb.reload(&with).await, "applied");
        let clients: Vec<_> = (0..60)
            .map(|_| {
                tokio::spawn(async move {
                    // If the balancer closes the connection immediately, connecting may fail.
                    let mut stream = TcpStream::connect(addr).await.ok()?;
                    let _ = stream.read_u8().await;
                    Some(stream)
                })
            })
            .collect();
        assert_eq!(lb.reload(&without).await, "applied");
        for client in clients {
            let Some(mut stream) = client.await.unwrap() else {
                continue;
            };
            let mut rest = Vec::new();
            // The connection may end in any way. A connection that the reload missed would
            // stay open.
            let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
        }
    }
    lb.quiet().await;
}
