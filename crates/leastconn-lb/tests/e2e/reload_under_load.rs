//! Continuous reloads of all kinds while clients connect, exchange data and stream. There
//! are 50 reloads, or 200 with `LEASTCONN_LONG=1`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::data::{Sha256, pattern};
use leastconn_testkit::{Behaviour, DEADLINE, Port, Signal, TlsClient, Upstream, within};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, entry, talk};

/// Number of kinds of changes.
const KINDS: usize = 10;

/// Returns the configuration for reload number `n`: the original configuration with one
/// change. Each reload also reverts the previous change.
fn change(n: usize, config: &str, more: &Upstream, admin: &Port, lb: &Running) -> String {
    let text = match n % KINDS {
        0 => config.replace("servers = [", &format!("servers = [{}, ", entry("new", more.addr(), ""))),
        1 => format!(
            "{config}\n[[client]]\nname = \"more{n}\"\nmatch = {{ cn = \"more{n}.lb.com\" }}\nallow = [\"web\"]\n"
        ),
        2 => config.replace(
            "name = \"client1\"",
            &format!("name = \"client1\"\nmax_conns = {}\nrate_limit = {{ rate = 100000, burst = 100000 }}", 1000 + n),
        ),
        3 => config.replace(
            "upstream = \"web\"",
            &format!("upstream = \"web\"\nidle_timeout = \"2h\"\nhalf_close_timeout = \"{}s\"", 60 + n),
        ),
        4 => {
            // Renew the server certificate with the same CA.
            lb.ca().server(&[]).write(lb.dir(), "server");
            format!("{config}\n# {n}\n")
        }
        5 => config.replace("[log]", "[log]\nlevel = \"debug\""),
        6 => config.replace(
            "[admin]\nbind = \"127.0.0.1:0\"",
            &format!("[admin]\nbind = \"{}\"", admin.address),
        ),
        7 => config.replace("name = \"web\"", "name = \"web\"\nretries = 3\nconnect_timeout = \"3s\""),
        8 => config.replace("[log]", "max_handshakes = 100\nmax_connections = 1000\n[log]"),
        _ => config.replace(
            "[[upstream]]\nname = \"web\"",
            &format!("[[listener]]\nname = \"more\"\nbind = \"127.0.0.1:0\"\nupstream = \"web\"\n{TLS}\n\n[[upstream]]\nname = \"web\""),
        ),
    };
    assert_ne!(text, config);
    text
}

/// Sends data until `stop` is set, and checks the digest that the server returns.
async fn stream(client: TlsClient, to: SocketAddr, stop: Arc<AtomicBool>) -> u64 {
    let mut stream = client.connect(to).await.unwrap();
    let mut digest = Sha256::default();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let piece = pattern(sent, 16 * 1024);
        digest.update(&piece);
        within(DEADLINE, "sending", stream.write_all(&piece))
            .await
            .unwrap();
        sent += piece.len() as u64;
        // Leave CPU time for other tasks: ciphers are slow in debug builds.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stream.shutdown().await.unwrap();
    let answer = read_to_close(&mut stream).await.unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), digest.finish_hex());
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_survive_continuous_reloads() {
    let reloads = match std::env::var_os("LEASTCONN_LONG") {
        Some(_) => 200,
        None => 50,
    };
    let web = Upstream::named("web1").await;
    let more = Upstream::named("web1").await;
    let sink = Upstream::start(Behaviour::Sink).await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("sink", &["upstream = \"sink\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("sink", &[NO_PROBES], &entries(&[&sink]))
        .client("client1", &cn(CLIENT1), "web\", \"sink", "")
        // Without the file watcher, each change causes exactly one reload.
        .process("watch = \"off\"")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    let stopped = Arc::new(AtomicBool::new(false));
    let talks = Arc::new(AtomicUsize::new(0));
    let (main, sinks) = (lb.main(), lb.address("sink"));

    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let (client, stop) = (client.clone(), Arc::clone(&stopped));
        let talks = Arc::clone(&talks);
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(
                    talk(client.connect(main).await.unwrap()).await.unwrap(),
                    "web1"
                );
                talks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (client, stop) = (lb.client(CLIENT1), Arc::clone(&stopped));
        tasks.spawn(async move {
            assert!(stream(client, sinks, stop).await > 0);
        });
    }
    // This connection is open from the first reload to the last.
    let mut old = client.connect(main).await.unwrap();
    assert_eq!(read_line(&mut old).await.unwrap(), "web1");

    let config = lb.config();
    let admin = Port::reserve();
    for n in 0..reloads {
        let text = change(n, &config, &more, &admin, &lb);
        let before = talks.load(Ordering::Relaxed);
        assert_eq!(lb.reload(&text).await, "applied");
        within(DEADLINE, "new connections", async {
            while talks.load(Ordering::Relaxed) == before {
                assert!(!tasks.is_empty());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    stopped.store(true, Ordering::Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let bytes = vec![9; 100_000];
    assert!(roundtrip(&mut old, &bytes).await.unwrap() == bytes);
    old.shutdown().await.unwrap();
    read_to_close(&mut old).await.unwrap();
    assert_eq!(lb.reloads().await, [reloads as f64, 0.0]);
    // Restore the original configuration, because `quiet` compares the number of open files
    // with the start of the test.
    assert_eq!(lb.reload(&config).await, "applied");
    lb.quiet().await;
    let records = lb.records();
    eprintln!("{reloads} reloads, {} connections", records.len());
    assert!(records.len() > reloads, "{}", records.len());
    for record in &records {
        assert_eq!(record["outcome"], "ok", "{record}");
    }
    assert!(more.accepted() > 0, "an added server got no connection");
}

#[tokio::test]
async fn simultaneous_reloads_are_serialized() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    for _ in 0..20 {
        lb.signal(Signal::HUP);
        lb.signal(Signal::HUP);
    }
    lb.wait_log(
        |event| {
            event["fields"]["message"]
                .as_str()
                .is_some_and(|m| m == "configuration reloaded")
        },
        DEADLINE,
    )
    .await;
    // A change that is made during a reload is applied by the next reload.
    let config = lb.config().replace("\"web\"]", "\"web/web1\"]");
    assert_eq!(lb.reload(&config).await, "applied");
    let client = lb.client(CLIENT1);
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}
