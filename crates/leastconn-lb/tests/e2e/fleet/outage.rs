//! No client is affected when the store fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use leastconn_testkit::{
    DEADLINE, FaultProxy, Faults, Sentinel, StoreKind, StoreOptions, StoreServer, Upstream,
};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    both_stores,
    harness::{
        connect, figure, is_long, members, site, stop, wait_elsewhere, wait_members, wait_state,
    },
};
use crate::support::DEBUG_SLACK;

both_stores! {
    killed_store_affects_no_client,
    silent_store_affects_no_client,
    member_that_is_cut_off_admits_its_share,
    paused_member_does_not_decide_by_old_numbers,
    sentinel_failover_affects_no_client,
}

/// How long the store is gone.
fn outage() -> Duration {
    Duration::from_secs(if is_long() { 60 } else { 3 })
}

/// Clients that connect all the time until `stop`.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(usize, Vec<Duration>)>>,
}

impl Load {
    fn start(addresses: impl Iterator<Item = std::net::SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = addresses.enumerate().map(|(n, address)| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let (mut failed, mut times) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let source = u8::try_from(n % 3 + 1).unwrap_or(1);
                    failed += usize::from(connect(address, source).await.is_none());
                    times.push(start.elapsed());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                (failed, times)
            })
        });
        Self {
            clients: clients.collect(),
            stop,
        }
    }

    /// The number of failed connects, and the 99th percentile of the time of a connect.
    async fn stop(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut failed, mut times) = (0, Vec::new());
        for client in self.clients {
            let (failures, took) = client.await.unwrap();
            failed += failures;
            times.extend(took);
        }
        times.sort();
        (failed, times[times.len() * 99 / 100])
    }
}

/// The limit is far above what the load uses, also for a member that is cut off.
const LIMIT: &str = "rate_limit = { rate = 3000, burst = 3000 }\nmax_conns = 300";

async fn store_fails(kind: StoreKind, name: &str, fail: impl Fn(&mut StoreServer)) {
    let mut store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let all = members(3, &url, &[&web], LIMIT, "").await;
    let addresses = || all.iter().map(|member| member.main());
    let load = Load::start(addresses());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (failed, before) = load.stop().await;
    assert_eq!(failed, 0);

    let load = Load::start(addresses());
    fail(&mut store);
    let cut_off = wait_state(&all[0], "cut_off").await;
    for member in &all {
        wait_state(member, "cut_off").await;
        assert_eq!(member.http_get("/readyz").await.0, 200);
    }
    tokio::time::sleep(outage()).await;
    let (failed, during) = load.stop().await;
    if name == "SIGSTOP" {
        store.resume();
    } else {
        store.restart_empty().await;
    }
    let back = Instant::now();
    for member in &all {
        wait_members(member, 3).await;
    }
    let rejoined = back.elapsed();
    // Nothing is counted twice, or forever.
    for member in &all {
        wait_elsewhere(member, 0.0).await;
    }
    let slower = during.saturating_sub(before);
    let text = format!(
        "{failed} failed, p99 +{:.1} ms, cut off after {:.1} s, rejoined after {:.1} s",
        slower.as_secs_f64() * 1e3,
        cut_off.as_secs_f64(),
        rejoined.as_secs_f64(),
    );
    let target = "0 failed, p99 +5 ms, 1.5 s, 2 s";
    figure(&format!("store gone by {name}"), kind, &text, target);
    assert_eq!(failed, 0, "{text}");
    assert!(slower < Duration::from_millis(5) + DEBUG_SLACK, "{text}");
    assert!(
        cut_off < Duration::from_millis(1_500) + DEBUG_SLACK,
        "{text}"
    );
    assert!(rejoined < Duration::from_secs(2) + DEBUG_SLACK, "{text}");
    stop(all).await;
}

async fn killed_store_affects_no_client(kind: StoreKind) {
    store_fails(kind, "SIGKILL", StoreServer::kill).await;
}

async fn silent_store_affects_no_client(kind: StoreKind) {
    store_fails(kind, "SIGSTOP", |store| store.pause()).await;
}

/// Opens as many connections as the members admit.
async fn open_all(addresses: &[std::net::SocketAddr], held: &mut Vec<tokio::net::TcpStream>) {
    let mut refused_in_a_row = 0;
    while refused_in_a_row < 3 * addresses.len() {
        for address in addresses {
            match connect(*address, 1).await {
                Some((stream, _)) => {
                    held.push(stream);
                    refused_in_a_row = 0;
                }
                None => refused_in_a_row += 1,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn member_that_is_cut_off_admits_its_share(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let proxy = FaultProxy::start(store.address(), Faults::default(), Faults::default()).await;
    let url = format!("{:?}", store.url());
    let mut all = members(2, &url, &[&web], "max_conns = 30", "").await;
    let proxied = format!("\"redis://{}\"", proxy.addr());
    all.push(
        site("lb3", &proxied, &[&web], "max_conns = 30", "")
            .start()
            .await,
    );
    for member in &all {
        wait_members(member, 3).await;
    }
    proxy.black_hole(true);
    wait_state(&all[2], "cut_off").await;
    // The others forget it after `gone_after`.
    wait_members(&all[0], 2).await;
    let addresses: Vec<_> = all.iter().map(|member| member.main()).collect();
    let mut held = Vec::new();
    open_all(&addresses, &mut held).await;
    let total = held.len();
    figure("one of three cut off, max_conns = 30", kind, total, "40");
    // In the mode `fast`, each of the joined members may admit one more before it has asked.
    assert!((35..=42).contains(&total), "{total}");
    proxy.black_hole(false);
    for member in &all {
        wait_members(member, 3).await;
    }
    // Everything is counted once, so nothing more is admitted.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for address in addresses {
        assert!(connect(address, 1).await.is_none());
    }
    drop(held);
    stop(all).await;
}

async fn paused_member_does_not_decide_by_old_numbers(kind: StoreKind) {
    use leastconn_testkit::Signal;
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let all = members(3, &url, &[&web], "max_conns = 30", "").await;
    // The paused member must not admit more than its share right after the pause, although the
    // last view that it has seen says that all 30 are free.
    all[2].signal(Signal::STOP);
    wait_members(&all[0], 2).await;
    let mut held = Vec::new();
    open_all(&[all[0].main(), all[1].main()], &mut held).await;
    // In the mode `fast`, each member may admit one more before it has asked.
    assert!((30..=32).contains(&held.len()), "{}", held.len());
    let waiting: Vec<_> = (0..20)
        .map(|_| tokio::spawn(connect(all[2].main(), 1)))
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    all[2].signal(Signal::CONT);
    let mut admitted = 0;
    for client in waiting {
        if let Some((stream, _)) = client.await.unwrap() {
            held.push(stream);
            admitted += 1;
        }
    }
    figure(
        "admitted right after a pause, share 10",
        kind,
        admitted,
        "at most 10",
    );
    assert!(admitted <= 10, "{admitted}");
    drop(held);
    stop(all).await;
}

async fn sentinel_failover_affects_no_client(kind: StoreKind) {
    let primary = StoreServer::start(kind).await;
    let options = StoreOptions::new(kind).replica_of(primary.address());
    let replica = StoreServer::start_with(options).await;
    replica.replicate(&primary).await;
    let sentinel = Sentinel::start(kind, &primary, 1).await;
    let web = Upstream::named("web1").await;
    let table = format!(
        "{{ sentinels = [\"{}\"], primary = \"mymaster\" }}",
        sentinel.address()
    );
    let all = members(3, &table, &[&web], LIMIT, "").await;
    let load = Load::start(all.iter().map(|member| member.main()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    sentinel.fail_over().await;
    for member in &all {
        wait_members(member, 3).await;
    }
    let took = start.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (failed, _) = load.stop().await;
    let text = format!("{failed} failed, joined after {:.1} s", took.as_secs_f64());
    figure("Sentinel failover", kind, &text, "0 failed, 20 s");
    assert_eq!(failed, 0);
    assert!(took < DEADLINE);
    stop(all).await;
}
