//! If no file descriptors are free, the balancer stops accepting and waits without using CPU time.
//! It continues when descriptors are free again.

use std::process::Command;
use std::time::Duration;

use leastconn_testkit::client::read_to_close;
use leastconn_testkit::{Balancer, DEADLINE, Upstream, eventually, within};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;

use crate::support::{ADMIN_LATENCY, BIN, CLIENT1, Running, Site, talk, tcp};

fn limit_files(lb: &Balancer, files: u64) {
    let pid = Pid::from_raw(lb.pid().try_into().unwrap());
    let limit = Rlimit {
        current: Some(files),
        maximum: Some(20_000),
    };
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

/// CPU time of the process, in ticks of 10 ms.
fn ticks(lb: &Balancer) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", lb.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let field = |n: usize| -> u64 { fields.split(' ').nth(n).unwrap().parse().unwrap() };
    field(11) + field(12)
}

async fn assert_served(lb: &Running) {
    let served = async { talk(lb.client(CLIENT1).connect(lb.main()).await?).await };
    within(DEADLINE, "being served", served).await.unwrap();
}

#[tokio::test]
async fn accepting_pauses_without_spinning_and_recovers() {
    let web = Upstream::named("web1").await;
    let lb = Site::long_handshake_timeout(&[&web]).start().await;
    let most = lb.open_fds() as u64 + 5;
    limit_files(&lb, most);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(tcp(lb.main()).await);
    }
    lb.wait_log(
        |event| event["fields"]["message"] == "cannot accept connections",
        DEADLINE,
    )
    .await;
    let before = ticks(&lb);
    // The balancer must use almost no CPU time in this second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = ticks(&lb) - before;
    assert!(
        used <= 10,
        "used {used} ticks of CPU time in a second of waiting"
    );
    let warnings = lb.stderr().matches("cannot accept connections").count();
    assert!(warnings < 30, "{warnings} warnings were logged");

    // 30 requests exceed the number of reserved descriptors, so each request must return its
    // descriptor to the reserve.
    for _ in 0..10 {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let answer = within(ADMIN_LATENCY, path, lb.http_get(path)).await;
            assert_eq!(answer.0, 200);
        }
    }
    // The balancer is still at its descriptor limit. Wait, because the last request may
    // return its descriptor after the client has received the answer.
    let exhausted = eventually(DEADLINE, || async {
        match lb.open_fds() as u64 {
            open if open >= most => Ok(()),
            open => Err(format!("{open} of {most} descriptors are open")),
        }
    });
    exhausted.await.unwrap();

    drop(silent);
    assert_served(&lb).await;
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    limit_files(&lb, 20_000);
    // The balancer has accepted and recorded all connections from the backlog.
    lb.wait_records(41).await;
    lb.quiet().await;
}

/// A shutdown while accepting is paused must serve the clients in the backlog. Closing the
/// listening socket immediately would reset their connections.
#[tokio::test]
async fn clients_in_the_backlog_are_served_at_shutdown() {
    use leastconn_testkit::Signal;
    let web = Upstream::named("web1").await;
    let lb = Site::long_handshake_timeout(&[&web]).start().await;
    limit_files(&lb, lb.open_fds() as u64 + 5);
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(tcp(lb.main()).await);
    }
    lb.wait_log(
        |event| event["fields"]["message"] == "cannot accept connections",
        DEADLINE,
    )
    .await;
    let client = lb.client(CLIENT1);
    let waiting = tcp(lb.main()).await;
    lb.signal(Signal::TERM);
    eventually(DEADLINE, || async {
        let (status, _) = lb.http_get("/readyz").await;
        (status == 503).then_some(()).ok_or(status.to_string())
    })
    .await
    .unwrap();
    drop(silent);
    let stream = within(
        DEADLINE,
        "the handshake",
        client.handshake(waiting, "localhost"),
    );
    assert_eq!(talk(stream.await.unwrap()).await.unwrap(), "web1");
    assert_eq!(lb.wait_end(DEADLINE).await.code(), Some(0));
}

/// Client connections leave some descriptors free for the admin address, even if
/// `max_connections` exceeds the descriptor limit.
#[tokio::test]
async fn admin_answers_without_free_descriptors() {
    let web = Upstream::named("web1").await;
    let site = Site::long_handshake_timeout(&[&web]).process("max_connections = 1000");
    let program = |command: &mut Command| {
        let mut limited = Command::new("prlimit");
        limited
            .arg("--nofile=100:100")
            .arg(BIN)
            .args(command.get_args());
        limited.current_dir(command.get_current_dir().unwrap());
        *command = limited;
    };
    let lb = site.start_with(program).await;
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..200 {
        silent.push(tcp(lb.main()).await);
    }
    let is_warning = |event: &serde_json::Value| {
        let fields = &event["fields"];
        fields["message"] == "connection limit reached: refusing connections"
            && fields["reason"] == "limit on open files (LimitNOFILE)"
    };
    lb.wait_log(is_warning, DEADLINE).await;
    let refused = lb
        .wait_record(|record| record["outcome"] == "overloaded", DEADLINE)
        .await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.ends_with("as many as the limit on open files allows (`LimitNOFILE`)"));
    let overloaded = r#"leastconn_connections_total{listener="main",outcome="overloaded"}"#;
    let start = lb.metrics().await;
    assert!(start.contains_key(&leastconn_testkit::metrics::normalise(overloaded)));
    assert_eq!(lb.http_get("/healthz").await.0, 200);
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    assert!(lb.open_fds() < 100);
    let before = ticks(&lb);
    // The balancer must use almost no CPU time in this second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ticks(&lb) - before <= 10);
    // Connections above the limit were closed immediately.
    for stream in silent.iter_mut().skip(100) {
        assert!(read_to_close(stream).await.unwrap_or_default().is_empty());
    }
    drop(silent);
    lb.wait_records(200).await;
    assert_served(&lb).await;
    lb.quiet().await;
}
