//! A reload applies only the differences. An invalid configuration changes nothing.

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Port, Upstream, eventually};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::ctl::{SOCKET, ctl};
use crate::support::{
    CLIENT1, NO_PROBES, Site, TLS, cn, entries, entry, listen, refused, talk, tcp, wait_refused,
};

#[tokio::test]
async fn invalid_configuration_changes_nothing() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let config = lb.config();
    let port = Port::reserve();
    let added = port.address;
    let good_part = format!(
        "{config}\n[[listener]]\nname = \"added\"\nbind = \"{added}\"\nupstream = \"web\"\n"
    );
    let wrong = [
        (
            config.replace("upstream = \"web\"", "upstream = \"wbe\""),
            "there is no upstream named `wbe`; did you mean `web`?",
        ),
        (
            good_part.replace("\"web\"]", "\"wob\"]"),
            "there is no upstream named `wob`",
        ),
        ("[process".to_owned(), "unclosed table"),
        (
            config.replace("workers = 2", "workers = 3"),
            "`process.workers` was changed, which needs a restart",
        ),
        (
            config.replace("workers = 2", "workers = 2\nsandbox = \"off\""),
            "`process.sandbox` was changed, which needs a restart",
        ),
        (
            config.replace("[log]", "[log]\naccess = \"/nowhere/access.log\""),
            "there is no directory /nowhere",
        ),
    ];
    for (text, reason) in wrong {
        assert_ne!(text, config);
        assert_eq!(lb.reload(&text).await, "rejected", "{text}");
        lb.wait_log(
            |event| {
                let message = event["fields"]["message"].as_str();
                event["level"] == "ERROR" && message.is_some_and(|message| message.contains(reason))
            },
            DEADLINE,
        )
        .await;
        talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
            .await
            .unwrap();
        wait_refused(added).await;
    }
    assert_eq!(lb.reload(&config).await, "applied");
    assert_eq!(lb.reloads().await, [1.0, 6.0]);
    lb.quiet().await;
}

#[tokio::test]
async fn address_in_use_rejects_the_whole_reload() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let ports = [Port::reserve(), Port::reserve()];
    let [free, taken_at] = [ports[0].address, ports[1].address];
    let taken = listen(taken_at);
    let config = format!(
        "{}\n[[listener]]\nname = \"added\"\nbind = [\"{free}\", \"{taken_at}\"]\nupstream = \"web\"\n{TLS}\n",
        lb.config()
    );
    assert_eq!(lb.reload(&config).await, "rejected");
    lb.wait_log(
        |event| {
            let message = event["fields"]["message"].as_str().unwrap_or_default();
            message.contains("listener `added` cannot listen on") && message.contains("ss -ltnp")
        },
        DEADLINE,
    )
    .await;
    wait_refused(free).await;
    drop(taken);
    assert_eq!(lb.reload(&config).await, "applied");
    for addr in [free, taken_at, lb.main()] {
        talk(lb.client(CLIENT1).connect(addr).await.unwrap())
            .await
            .unwrap();
    }
    // There are two more listening sockets than at the start.
    lb.quiet_with(2).await;
}

#[tokio::test]
async fn listeners_are_added_moved_renamed_and_removed() {
    let web = Upstream::named("web1").await;
    let ports = [Port::reserve(), Port::reserve()];
    let [at, to] = [ports[0].address, ports[1].address];
    let lb = Site::usual(&[&web])
        .listener(
            "second",
            &[&format!("bind = \"{at}\""), "upstream = \"web\"", TLS],
        )
        .start()
        .await;
    let client = lb.client(CLIENT1);
    let mut on_second = client.connect(at).await.unwrap();
    assert_eq!(read_line(&mut on_second).await.unwrap(), "web1");

    // Renaming a listener keeps its socket.
    let renamed = lb.config().replace("name = \"second\"", "name = \"other\"");
    assert_eq!(lb.reload(&renamed).await, "applied");
    talk(client.connect(at).await.unwrap()).await.unwrap();
    assert_eq!(lb.expect_record(0, "ok").await["listener"], "other");

    // If a listener gets a new address, the old address is closed. The connections of the
    // listener stay open.
    let moved = renamed.replace(&at.to_string(), &to.to_string());
    assert_eq!(lb.reload(&moved).await, "applied");
    wait_refused(at).await;
    talk(client.connect(to).await.unwrap()).await.unwrap();

    // The listener is removed from the configuration.
    let (before, _) = moved.split_once("[[listener]]\nname = \"other\"").unwrap();
    let (_, after) = moved.split_once(&format!("bind = \"{to}\"")).unwrap();
    let after = after.split_once("\n\n").unwrap().1;
    assert_eq!(lb.reload(&format!("{before}{after}")).await, "applied");
    wait_refused(to).await;
    assert_eq!(
        roundtrip(&mut on_second, b"still here").await.unwrap(),
        b"still here"
    );
    // The status lists the removed listener for as long as it has connections.
    let listed = async || {
        let (_, status) = lb.http_get("/api/v1/status").await;
        let status: Value = serde_json::from_str(&status).unwrap();
        let listeners = status["listeners"].as_array().unwrap().iter();
        let names = listeners.map(|listener| listener["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(listed().await, ["main", "second"]);
    on_second.shutdown().await.unwrap();
    assert!(read_to_close(&mut on_second).await.unwrap().is_empty());
    // Find the record by its listener, not by its number: the connection attempts above may
    // also have been accepted and recorded.
    let second = |record: &Value| record["listener"] == "second";
    assert_eq!(lb.wait_record(second, DEADLINE).await["outcome"], "ok");
    lb.quiet().await;
    assert_eq!(listed().await, ["main"]);
}

#[tokio::test]
async fn servers_keep_their_connection_counts() {
    let servers = [Upstream::named("web1").await, Upstream::named("web2").await];
    let lb = Site::usual(&[&servers[0]]).start().await;
    let client = lb.client(CLIENT1);
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = client.connect(lb.main()).await.unwrap();
        assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
        open.push(stream);
    }
    let config = lb.config().replace(
        &entries(&[&servers[0]])[0],
        &entries(&[&servers[0], &servers[1]]).join(", "),
    );
    assert_eq!(lb.reload(&config).await, "applied");
    // The four open connections still count, so the next four connections go to the new
    // server.
    for _ in 0..4 {
        let mut stream = client.connect(lb.main()).await.unwrap();
        assert_eq!(read_line(&mut stream).await.unwrap(), "web2");
        open.push(stream);
    }
    // The first server is removed. Its connections stay open.
    let config = lb.config().replace(
        &entries(&[&servers[0]])[0],
        &entry("web2", servers[1].addr(), ""),
    );
    assert_eq!(lb.reload(&config).await, "applied");
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    for stream in &mut open {
        assert_eq!(roundtrip(stream, b"on").await.unwrap(), b"on");
    }
    servers[0].wait_open(4).await;
    for mut stream in open {
        stream.shutdown().await.unwrap();
        read_to_close(&mut stream).await.unwrap();
    }
    lb.quiet().await;
}

/// If a server is removed by mistake and added again, its open connections still count.
#[tokio::test]
async fn readded_server_keeps_its_connection_count() {
    let servers = [Upstream::named("web1").await, Upstream::named("web2").await];
    let both = [&servers[0], &servers[1]];
    let lb = Site::usual(&both).admin(SOCKET).start().await;
    let client = lb.client(CLIENT1);
    let mut open = Vec::new();
    let connect = async || {
        let mut stream = client.connect(lb.main()).await.unwrap();
        (read_line(&mut stream).await.unwrap(), stream)
    };
    for _ in 0..6 {
        open.push(connect().await);
    }
    let with_both = entries(&both).join(", ");
    assert!(lb.config().contains(&with_both));
    let without = lb.config().replace(&with_both, &entries(&both[..1])[0]);
    assert_eq!(lb.reload(&without).await, "applied");
    // Commands may still name the removed server, because it has connections.
    let no_client = ["kill", "--server", "web/web2", "--identity", "cn:nobody"];
    ctl(&lb, &no_client).await.ok();
    for _ in 0..2 {
        open.push(connect().await);
    }
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    // Now web1 has five connections and web2 has three.
    for _ in 0..2 {
        let one = connect().await;
        assert_eq!(one.0, "web2");
        open.push(one);
    }
    assert_eq!(lb.reload(&without).await, "applied");
    let killed = ctl(&lb, &["kill", "--server", "web/web2"]).await.ok();
    assert_eq!(killed, "5 connections closed\n");
    for (name, mut stream) in open {
        if name == "web1" {
            stream.shutdown().await.unwrap();
        }
        let _ = read_to_close(&mut stream).await;
    }
    let gone = ctl(&lb, &["kill", "--server", "web/web2"]).await;
    assert!(gone.stderr.contains("there is no server"), "{gone:?}");
    lb.quiet().await;
}

#[tokio::test]
async fn client_bucket_and_count_survive() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client(
            "client1",
            &cn(CLIENT1),
            "web",
            "rate_limit = { rate = 0.001, burst = 2 }",
        )
        .start()
        .await;
    let client = lb.client(CLIENT1);
    let mut first = client.connect(lb.main()).await.unwrap();
    read_line(&mut first).await.unwrap();
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(refused(&client, lb.main()).await, None);
    assert_eq!(
        lb.expect_record(1, "rate_limited").await["client"],
        "client1"
    );
    // Replace the rate limit by a `max_conns` that the open connection already reaches.
    let config = lb
        .config()
        .replace("rate_limit = { rate = 0.001, burst = 2 }", "max_conns = 1");
    assert_eq!(lb.reload(&config).await, "applied");
    assert_eq!(refused(&client, lb.main()).await, None);
    lb.expect_record(2, "too_many_connections").await;
    assert_eq!(roundtrip(&mut first, b"on").await.unwrap(), b"on");
    first.shutdown().await.unwrap();
    read_to_close(&mut first).await.unwrap();
    lb.expect_record(3, "ok").await;
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn max_connections_can_be_changed() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web])
        .process("max_connections = 3")
        .start()
        .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = tcp(lb.main()).await;
        read_line(&mut stream).await.unwrap();
        open.push(stream);
    }
    let one = lb
        .config()
        .replace("max_connections = 3", "max_connections = 1");
    assert_eq!(lb.reload(&one).await, "applied");
    // The three connections stay open. New connections are refused until all three have
    // ended.
    for n in 0..3 {
        let _ = read_to_close(&mut tcp(lb.main()).await).await;
        lb.expect_record(2 * n, "overloaded").await;
        let mut stream = open.pop().unwrap();
        assert_eq!(roundtrip(&mut stream, b"on").await.unwrap(), b"on");
        stream.shutdown().await.unwrap();
        read_to_close(&mut stream).await.unwrap();
        lb.expect_record(2 * n + 1, "ok").await;
    }
    // The balancer reduces its connection count shortly after it has written the record.
    let only = eventually(DEADLINE, || async {
        let mut stream = tcp(lb.main()).await;
        let greeted = read_line(&mut stream).await;
        greeted.map(|_| stream).map_err(|error| error.to_string())
    });
    let only = only.await.unwrap();
    let refusals = async || {
        let overloaded = r#"leastconn_connections_total{listener="main",outcome="overloaded"}"#;
        lb.metrics().await[overloaded]
    };
    let before = refusals().await;
    let _ = read_to_close(&mut tcp(lb.main()).await).await;
    assert_eq!(refusals().await, before + 1.0);
    let two = lb
        .config()
        .replace("max_connections = 3", "max_connections = 2");
    assert_eq!(lb.reload(&two).await, "applied");
    talk(tcp(lb.main()).await).await.unwrap();
    drop(only);
    lb.quiet().await;
}

#[tokio::test]
async fn log_level_and_access_log_change() {
    let web = Upstream::named("web1").await;
    // The sandbox would allow moving the log only within its directory.
    let site = Site::plain(&[&web]).process("sandbox = \"off\"");
    let lb = site.start().await;
    talk(tcp(lb.main()).await).await.unwrap();
    lb.expect_record(0, "ok").await;
    let config = lb.config().replace(
        "format = \"json\"",
        "format = \"json\"\nlevel = \"warn\"\naccess = \"access.log\"",
    );
    assert_eq!(lb.reload(&config).await, "applied");
    talk(tcp(lb.main()).await).await.unwrap();
    let path = lb.dir().join("access.log");
    eventually(DEADLINE, || async {
        let text = std::fs::read_to_string(&path).unwrap();
        (text.lines().count() == 1).then_some(()).ok_or(text)
    })
    .await
    .unwrap();
    assert_eq!(
        lb.records().len(),
        1,
        "the record was also written to standard output"
    );
    // At level `warn`, an applied reload logs no message.
    assert_eq!(
        lb.reload(&config.replace("\"access.log\"", "\"off\""))
            .await,
        "applied"
    );
    talk(tcp(lb.main()).await).await.unwrap();
    assert_eq!(lb.reload("nonsense").await, "rejected");
    lb.wait_log(|event| event["level"] == "ERROR", DEADLINE)
        .await;
    // The log is read in order, so all messages before the error have been read.
    let applied = lb.stderr().matches("configuration reloaded").count();
    assert!(applied <= 1, "{}", lb.stderr());
    lb.assert_idle(lb.baseline).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
}
