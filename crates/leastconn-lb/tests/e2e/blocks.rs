//! `ctl block`: a blocked client is disconnected and refused, until it is unblocked or the block
//! expires.

use leastconn_testkit::client::read_line;
use leastconn_testkit::{Cert, DEADLINE, Signal, Upstream, eventually};
use serde_json::Value;

use crate::{
    ctl::{SOCKET, ctl, ctl_json, program},
    listen_addresses::addresses,
    support::{
        CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, refused,
        upgrading::{assert_open, finish, open, shut_down_all, start, upgrade, wait_closed},
    },
};

const CLIENT2: &str = "client2.lb.com";

fn site(web: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("client2", &cn(CLIENT2), "web", "")
        .admin(SOCKET)
}

/// Connects, and returns the record of the refused connection.
async fn refused_record(lb: &Running, cert: &Cert, n: usize) -> Value {
    let _ = refused(&lb.client_with(cert), lb.main()).await;
    lb.expect_record(n, "blocked").await
}

#[tokio::test]
async fn blocked_client_is_disconnected_and_refused() {
    let web = Upstream::named("web1").await;
    let lb = site(&web).start().await;
    let [cert1, cert2] = [CLIENT1, CLIENT2].map(|name| lb.ca().leaf(name).build());
    let (first, mut second) = (open(&lb, &cert1).await, open(&lb, &cert2).await);

    let block = ["block", "--identity", "cn:client1.lb.com", "--for", "24h"];
    let output = ctl(&lb, &block).await.ok();
    assert!(
        output.starts_with("cn:client1.lb.com: blocked until 2")
            && output.ends_with("; 1 connection closed\n"),
        "{output}"
    );
    wait_closed(first).await;
    let record = lb.expect_record(0, "blocked").await;
    assert_eq!(record["server"], "web1", "{record}");
    assert_open(&mut second).await;

    let record = refused_record(&lb, &cert1, 1).await;
    assert_eq!(record["client"], "client1", "{record}");
    let detail = record["detail"].as_str().unwrap();
    let expected = "identity cn:client1.lb.com is blocked until ";
    assert!(detail.starts_with(expected), "{record}");
    assert_eq!(record.get("server"), None, "{record}");
    lb.wait_metric(
        "leastconn_client_connections_total{client=\"client1\",outcome=\"blocked\"}",
        2.0,
        DEADLINE,
    )
    .await;

    // A reload keeps blocks.
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    refused_record(&lb, &cert1, 2).await;

    let blocks = ctl_json(&lb, &["blocks"]).await;
    assert_eq!(blocks["blocks"][0]["identity"], "cn:client1.lb.com");
    assert!(ctl(&lb, &["blocks"]).await.ok().contains("cn:client1"));
    let status = ctl(&lb, &["status"]).await.ok();
    assert!(status.contains("blocked        1 client"), "{status}");
    lb.wait_log(
        |event| {
            let fields = &event["fields"];
            fields["command"] == "block"
                && fields["identity"] == "cn:client1.lb.com"
                && fields["killed"] == 1
                && fields["uid"] == rustix::process::getuid().as_raw()
        },
        DEADLINE,
    )
    .await;

    let unblock = ["unblock", "--identity", "cn:client1.lb.com"];
    let output = ctl(&lb, &unblock).await.ok();
    assert_eq!(output, "cn:client1.lb.com: unblocked\n");
    assert_eq!(ctl(&lb, &["blocks"]).await.ok(), "no client is blocked\n");
    finish(open(&lb, &cert1).await).await;
    finish(second).await;
    lb.quiet().await;
}

/// A serial number blocks one certificate. Another certificate of the same client is admitted.
#[tokio::test]
async fn block_by_serial_number_applies_to_one_certificate() {
    let web = Upstream::named("web1").await;
    let lb = site(&web).start().await;
    let [lost, next] = [0, 1].map(|_| lb.ca().leaf(CLIENT1).build());
    let (stream, mut kept) = (open(&lb, &lost).await, open(&lb, &next).await);
    let connections = ctl_json(&lb, &["connections"]).await;
    let serial = connections["connections"][1]["serial"].as_str().unwrap();
    let serial = serial.to_owned();

    let lower = serial.to_ascii_lowercase();
    let output = ctl(&lb, &["block", "--serial", &lower]).await.ok();
    let expected = format!("serial {serial}: blocked; 1 connection closed\n");
    assert_eq!(output, expected);
    wait_closed(stream).await;
    lb.expect_record(0, "blocked").await;
    let record = refused_record(&lb, &lost, 1).await;
    let expected = format!("certificate serial number {serial} is blocked");
    assert_eq!(record["detail"], expected, "{record}");
    assert_open(&mut kept).await;
    finish(open(&lb, &next).await).await;

    ctl(&lb, &["unblock", "--serial", &serial]).await.ok();
    finish(open(&lb, &lost).await).await;
    finish(kept).await;
    lb.quiet().await;
}

#[tokio::test]
async fn block_expires() {
    let web = Upstream::named("web1").await;
    let lb = site(&web).start().await;
    let cert = lb.ca().leaf(CLIENT1).build();
    let block = ["block", "--identity", "cn:client1.lb.com", "--for", "2s"];
    ctl(&lb, &block).await.ok();
    refused_record(&lb, &cert, 0).await;
    let admitted = eventually(DEADLINE, || async {
        let stream = lb.client_with(&cert).connect(lb.main()).await;
        let mut stream = stream.map_err(|error| error.to_string())?;
        read_line(&mut stream)
            .await
            .map_err(|error| error.to_string())?;
        Ok::<_, String>(stream)
    });
    finish(admitted.await.unwrap()).await;
    assert_eq!(ctl(&lb, &["blocks"]).await.ok(), "no client is blocked\n");
    lb.quiet().await;
}

/// The identity of a client depends on the rule that matches, and thus on the source.
#[tokio::test]
async fn reload_ends_only_connections_of_the_blocked_identity() {
    let web = Upstream::named("web1").await;
    let all = format!("dns = \"{CLIENT1}\"");
    let site = |first: &str| {
        Site::new()
            .listener(
                "main",
                &[
                    "upstream = \"web\"",
                    r#"bind = ["127.0.0.1:0", "[::1]:0"]"#,
                    TLS,
                ],
            )
            .upstream("web", &[NO_PROBES], &entries(&[&web]))
            .client("first", first, "web", "")
            .client("all", &all, "web", "")
            .admin(SOCKET)
    };
    let lb = site("cn = \"nobody\"").start().await;
    let cert = lb.ca().leaf(CLIENT1).dns(CLIENT1).build();
    let mut streams = Vec::new();
    let addresses = addresses(&lb, "main");
    for is_ipv4 in [true, false] {
        let address = addresses.iter().find(|at| at.is_ipv4() == is_ipv4).unwrap();
        let mut stream = lb.client_with(&cert).connect(*address).await.unwrap();
        read_line(&mut stream).await.unwrap();
        streams.push(stream);
    }
    ctl(&lb, &["block", "--identity", "cn:client1.lb.com"])
        .await
        .ok();
    let ipv4 = format!("cn = \"{CLIENT1}\", source = \"127.0.0.0/8\"");
    let config = lb.config().replace("cn = \"nobody\"", &ipv4);
    assert_eq!(lb.reload(&config).await, "applied");
    let mut ipv6 = streams.pop().unwrap();
    wait_closed(streams.pop().unwrap()).await;
    lb.expect_record(0, "blocked").await;
    assert_open(&mut ipv6).await;
    finish(ipv6).await;
    lb.quiet().await;
}

/// A block applies to both processes of an upgrade: the successor refuses the client, and the
/// predecessor closes its connection.
#[tokio::test]
async fn block_applies_in_both_processes_of_an_upgrade() {
    let web = Upstream::named("web1").await;
    let lb = start(site(&web)).await;
    let [cert1, cert2] = [CLIENT1, CLIENT2].map(|name| lb.ca().leaf(name).build());
    ctl(&lb, &["block", "--identity", "cn:client2.lb.com"])
        .await
        .ok();
    let stream = open(&lb, &cert1).await;
    let next = upgrade(&lb, lb.pid()).await;
    refused_record(&lb, &cert2, 0).await;

    let output = ctl(&lb, &["block", "--identity", "cn:client1.lb.com"]).await;
    let expected = "cn:client1.lb.com: blocked; 0 connections closed\n";
    assert_eq!(output.ok(), expected);
    wait_closed(stream).await;
    lb.expect_record(1, "blocked").await;
    refused_record(&lb, &cert1, 2).await;
    shut_down_all(&lb, next).await;
}

/// The client of a rule by `cn` also has a DNS name, but it is not identified by this name.
#[tokio::test]
async fn block_that_applies_to_no_client_says_why() {
    let web = Upstream::named("web1").await;
    let lb = site(&web).start().await;
    let cert = lb.ca().leaf(CLIENT1).dns(CLIENT1).build();
    let stream = open(&lb, &cert).await;
    for (identity, note) in [
        (
            "dns:client1.lb.com",
            "note: no rule identifies clients by dns: use an identity of `ctl connections`, or \
             --serial\n",
        ),
        (
            "cn:client3.lb.com",
            "note: no rule matches cn:client3.lb.com: did you mean `cn:client1.lb.com`? Otherwise use \
             an identity of `ctl connections`, or --serial\n",
        ),
    ] {
        let output = ctl(&lb, &["block", "--identity", identity]).await.ok();
        let blocked = format!("{identity}: blocked; 0 connections closed\n");
        assert_eq!(output, blocked + note);
    }
    // `ctl clients` lists rules in this form.
    let clients = ctl(&lb, &["clients"]).await.ok();
    assert!(clients.contains("cn=client1.lb.com"), "{clients}");
    let output = ctl(&lb, &["block", "--identity", "cn=client1.lb.com"]);
    assert_eq!(
        output.await.ok(),
        "cn:client1.lb.com: blocked; 1 connection closed\n"
    );
    wait_closed(stream).await;
    lb.expect_record(0, "blocked").await;
    cert.write(lb.dir(), "asked");
    let config = lb.dir().join("leastconn.toml");
    let asked = ["explain", "--cert", "asked.crt", "--config"];
    let explained = program(
        lb.dir(),
        &[&asked[..], &[config.to_str().unwrap()]].concat(),
    )
    .await;
    let expected = "client1, identified as cn:client1.lb.com (the identity for `ctl block`)";
    assert!(explained.stdout.contains(expected), "{explained:?}");
    lb.quiet().await;
}

#[tokio::test]
async fn explain_shows_blocks_of_the_running_balancer() {
    let web = Upstream::named("web1").await;
    let lb = site(&web).start().await;
    let cert = lb.ca().leaf(CLIENT1).build();
    cert.write(lb.dir(), "asked");
    let path = lb.dir().join("asked.crt");
    assert_eq!(lb.explain(&path)["outcome"], "ok");
    ctl(&lb, &["block", "--identity", "cn:client1.lb.com"])
        .await
        .ok();
    let explained = lb.explain(&path);
    assert_eq!(explained["outcome"], "blocked", "{explained}");
    let detail = "identity cn:client1.lb.com is blocked";
    assert_eq!(explained["detail"], detail, "{explained}");
    lb.quiet().await;
}

#[tokio::test]
async fn invalid_blocks_are_rejected() {
    let web = Upstream::named("web1").await;
    let lb = site(&web).start().await;
    for (args, code, error) in [
        (
            &["block", "--identity", "client1.lb.com"][..],
            2,
            "expected cn:NAME",
        ),
        (&["block", "--identity", "ou:x"], 2, "expected cn:NAME"),
        (
            &["block", "--identity", "spki:abcd"],
            2,
            "invalid identity \"spki:abcd\"",
        ),
        (&["block", "--serial", "xyz"], 2, "expected hexadecimal"),
        (
            &["block", "--identity", "cn:a", "--for", "0s"],
            2,
            "`for` cannot be zero",
        ),
        (
            &["block", "--identity", "cn:a", "--for", "1"],
            2,
            "the unit is missing",
        ),
        (&["block"], 2, "--identity"),
        (
            &["block", "--identity", "cn:a", "--serial", "1"],
            2,
            "cannot be used with",
        ),
        (
            &["unblock", "--identity", "cn:a"],
            1,
            "identity `cn:a` is not blocked; `ctl blocks` lists all blocks",
        ),
        (&["fleet"], 1, "this balancer is not a member of a fleet"),
    ] {
        let output = ctl(&lb, args).await;
        assert_eq!(output.code, code, "{args:?}: {output:?}");
        assert!(output.stderr.contains(error), "{args:?}: {output:?}");
    }
    // Without a fleet, `--here` is the default.
    let output = ctl(&lb, &["drain", "web/web1", "--here"]).await.ok();
    assert!(
        output.starts_with("web/web1: drain (was ready)"),
        "{output}"
    );
    ctl(&lb, &["weight", "web/web1", "5", "--here"]).await.ok();
    ctl(&lb, &["kill", "--client", "client1", "--here"])
        .await
        .ok();
    let output = ctl(&lb, &["kill", "--here"]).await;
    assert_eq!(output.code, 2, "{output:?}");
    lb.signal(Signal::TERM);
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
}
