//! Commands of operators during an upgrade are not lost between the old and the new
//! process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leastconn_testkit::client::{TlsStream, read_line, roundtrip};
use leastconn_testkit::{Behaviour, DEADLINE, Signal, Upstream, within};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use crate::ctl::{SOCKET, ctl};
use crate::support::upgrading::{
    finish, message, shut_down_all, signal, start, successor, upgrade, wait_process_exit,
};
use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries};

/// The new process waits for its first health checks. This server does not answer them.
const SLOW: &str =
    "health_check = { expect = \"PONG\", timeout = \"2s\", interval = \"1h\", fall = 1 }";

/// A site whose upgrades take about two seconds.
fn slow(web: &Upstream, silent: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .upstream("slow", &[SLOW], &entries(&[silent]))
        .client("client1", &cn(CLIENT1), "web", "")
        .admin(SOCKET)
}

async fn open(lb: &Running) -> TlsStream<TcpStream> {
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    stream
}

async fn begin_upgrade(lb: &Running) {
    signal(lb.pid(), Signal::USR2);
    let is_begin = |event: &_| message(event).starts_with("starting successor process");
    lb.wait_log(is_begin, DEADLINE).await;
}

/// A reload during an upgrade must reach the new process, even if the new process has already
/// read the configuration.
#[tokio::test]
async fn api_reload_is_done_by_the_new_process() {
    for connected in [false, true] {
        let web = Upstream::named("web1").await;
        let silent = Upstream::start(Behaviour::Sink).await;
        let lb = start(slow(&web, &silent)).await;
        let stream = match connected {
            true => Some(open(&lb).await),
            false => None,
        };
        begin_upgrade(&lb).await;
        // The new process has started health checks, so it has read the configuration.
        silent.wait_accepted(2).await;
        lb.write_config(&lb.config().replace(CLIENT1, "client7.lb.com"));
        let output = ctl(&lb, &["reload"]).await.ok();
        assert!(output.starts_with("applied"), "{output}");
        let next = successor(&lb, lb.pid()).await;
        // Both processes applied the reload: the client's connection is closed, and the
        // client cannot connect again.
        if let Some(mut stream) = stream {
            let mut rest = Vec::new();
            let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
            lb.expect_record(0, "policy_changed").await;
        }
        let _refused = lb.client(CLIENT1).connect(lb.main()).await;
        lb.expect_record(usize::from(connected), "unknown_client")
            .await;
        shut_down_all(&lb, next).await;
    }
}

#[tokio::test]
async fn signalled_reload_is_done_by_the_new_process() {
    let web = Upstream::named("web1").await;
    let silent = Upstream::start(Behaviour::Sink).await;
    let lb = start(slow(&web, &silent)).await;
    begin_upgrade(&lb).await;
    lb.signal(Signal::HUP);
    lb.wait_log(
        |event| message(event).starts_with("reload postponed"),
        DEADLINE,
    )
    .await;
    // A second upgrade during the first one is ignored.
    lb.signal(Signal::USR2);
    let next = successor(&lb, lb.pid()).await;
    lb.wait_log(
        |event| message(event).starts_with("configuration reloaded"),
        DEADLINE,
    )
    .await;
    finish(open(&lb).await).await;
    shut_down_all(&lb, next).await;
}

/// The process that received the command exits before the end of the grace period. Another
/// process must close the connections when the grace period ends.
#[tokio::test]
async fn grace_period_of_maint_continues() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::usual(&[&web]).admin(SOCKET)).await;
    let mut stream = open(&lb).await;
    let second = upgrade(&lb, lb.pid()).await;
    ctl(&lb, &["maint", "web/web1", "--grace", "3s"]).await.ok();
    let newest = upgrade(&lb, second).await;
    wait_process_exit(second).await;
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
    lb.expect_record(0, "killed").await;
    shut_down_all(&lb, newest).await;
}

/// An override that is set during an upgrade must also apply to the connections of the new
/// process, which has started without the override.
#[tokio::test]
async fn maint_ends_connections_of_both_processes() {
    let web = Upstream::named("web1").await;
    let silent = Upstream::start(Behaviour::Sink).await;
    let lb = start(slow(&web, &silent)).await;
    begin_upgrade(&lb).await;
    silent.wait_accepted(2).await;
    ctl(&lb, &["maint", "web/web1", "--grace", "0s"]).await.ok();
    // Until the new process has received the overrides, it may send connections to the
    // server.
    let client = lb.client(CLIENT1);
    let main = lb.main();
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let clients = tokio::spawn(async move {
        let mut open = Vec::new();
        while !stopping.load(Ordering::Relaxed) {
            if let Ok(stream) = client.connect(main).await {
                open.push(stream);
            }
            sleep(Duration::from_millis(2)).await;
        }
        open
    });
    let next = successor(&lb, lb.pid()).await;
    stop.store(true, Ordering::Relaxed);
    for mut stream in clients.await.unwrap() {
        let mut rest = Vec::new();
        let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
    }
    web.wait_open(0).await;
    shut_down_all(&lb, next).await;
}

#[tokio::test]
async fn cancelled_grace_period_ends_nothing() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::usual(&[&web]).admin(SOCKET)).await;
    let mut stream = open(&lb).await;
    ctl(&lb, &["maint", "web/web1", "--grace", "8s"]).await.ok();
    let grace_end = Instant::now() + Duration::from_secs(8);
    let newest = upgrade(&lb, lb.pid()).await;
    ctl(&lb, &["ready", "web/web1"]).await.ok();
    let mut other = open(&lb).await;
    // No connection must be closed at the end of the grace period.
    sleep_until(grace_end + Duration::from_millis(500)).await;
    for stream in [&mut stream, &mut other] {
        assert_eq!(roundtrip(stream, b"on").await.unwrap(), b"on");
    }
    finish(stream).await;
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    finish(other).await;
    signal(newest, Signal::TERM);
    wait_process_exit(newest).await;
}

/// The second process closes a connection when it is terminated, so its exit code is 1. The
/// other processes must keep running.
#[tokio::test]
async fn exit_of_an_intermediate_process_ends_no_other() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::usual(&[&web])).await;
    let mut first = open(&lb).await;
    let second_pid = upgrade(&lb, lb.pid()).await;
    let mut second = open(&lb).await;
    let newest = upgrade(&lb, second_pid).await;
    signal(second_pid, Signal::TERM);
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "the close", second.read_to_end(&mut rest)).await;
    lb.expect_record(0, "drained").await;
    wait_process_exit(second_pid).await;
    // Give the other processes time to notice the exit.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(roundtrip(&mut first, b"on").await.unwrap(), b"on");
    finish(first).await;
    shut_down_all(&lb, newest).await;
}
