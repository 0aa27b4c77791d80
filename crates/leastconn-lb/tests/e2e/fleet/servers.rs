//! All members together share servers: their counts, and the slots of servers with `max_conns`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use leastconn_testkit::{DEADLINE, StoreKind, StoreServer, Upstream, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    both_stores,
    harness::{connect, figure, is_long, stop, wait_members},
};
use crate::support::{NO_PROBES, Running, Site, entries, entry};

both_stores! {
    max_conns_of_a_server_is_never_exceeded,
    the_only_slot_moves_between_members,
    connections_of_other_members_count,
}

async fn start(name: &str, store: &StoreServer, servers: &[String], allow: &str) -> Running {
    let queue = "queue = { size = 100, timeout = \"10s\" }";
    Site::new()
        .admin("socket = \"lb.sock\"")
        .fleet(name, &format!("{:?}", store.url()), "")
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES, queue], servers)
        .client("local", "source = \"127.0.0.0/8\"", allow, "")
        .start()
        .await
}

async fn start_all(count: usize, store: &StoreServer, servers: &[String]) -> Vec<Running> {
    let mut all = Vec::new();
    for n in 1..=count {
        all.push(start(&format!("lb{n}"), store, servers, "web").await);
    }
    for member in &all {
        wait_members(member, count).await;
    }
    all
}

/// Connections to a server: now, and the most at once.
#[derive(Default)]
struct OpenCount {
    open: AtomicU32,
    most: AtomicU32,
}

/// A server that counts a connection until it has read its end. The balancer waits for the server
/// to close, so the count never includes a connection that the balancer counts as ended.
async fn counting_server() -> (SocketAddr, Arc<OpenCount>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::<OpenCount>::default();
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&counted);
            let open = count.open.fetch_add(1, Ordering::SeqCst) + 1;
            count.most.fetch_max(open, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.write_all(b"web1\n").await;
                let _ = stream.read(&mut [0]).await;
                count.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, count)
}

/// Clients that connect to all members and hold each connection for a while, 16 for each member.
async fn max_conns_of_a_server_is_never_exceeded(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let (address, count) = counting_server().await;
    let servers = [entry("web1", address, ", max_conns = 20")];
    let all = start_all(3, &store, &servers).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for n in 0..48 {
        let (address, is_over) = (all[n % 3].main(), Arc::clone(&is_over));
        clients.spawn(async move {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let connected = connect(address, 1).await;
                served += usize::from(connected.is_some());
                sleep(Duration::from_millis(300)).await;
            }
            served
        });
    }
    // After the start with an empty store, free slots are given after `gone_after` (3 s). A moment
    // later, the members know each other's demand.
    sleep(Duration::from_secs(4)).await;
    let end = Instant::now() + Duration::from_secs(if is_long() { 10 } else { 3 });
    let (mut sum, mut samples) = (0, 0);
    while Instant::now() < end {
        sum += count.open.load(Ordering::SeqCst);
        samples += 1;
        sleep(Duration::from_millis(1)).await;
    }
    let most = count.most.load(Ordering::SeqCst);
    is_over.store(true, Ordering::Relaxed);
    let served: usize = clients.join_all().await.into_iter().sum();
    let mean = f64::from(sum) / f64::from(samples);
    figure("server max_conns = 20, most open", kind, most, "20");
    figure(
        "server max_conns = 20, mean open",
        kind,
        format!("{mean:.1}"),
        "18",
    );
    assert!(most <= 20, "{most} were open");
    assert!(most >= 18 && served > 50, "{most}, {served}");
    let least = if is_long() { 18.0 } else { 15.0 };
    assert!(mean >= least, "{mean}");
    stop(all).await;
}

async fn the_only_slot_moves_between_members(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let servers = [entry("web1", web.addr(), ", max_conns = 1")];
    let all = start_all(3, &store, &servers).await;
    for round in 0..6 {
        let connected = connect(all[round % 3].main(), 1).await;
        assert!(connected.is_some(), "round {round}");
        web.wait_open(1).await;
        drop(connected);
        web.wait_open(0).await;
    }
    stop(all).await;
}

/// The clients of the first member may use only one of two servers. The second member sends its
/// connections to the other server.
async fn connections_of_other_members_count(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let (web1, web2) = (Upstream::named("web1").await, Upstream::named("web2").await);
    let servers = entries(&[&web1, &web2]);
    let first = start("lb1", &store, &servers, "web/web1").await;
    let second = start("lb2", &store, &servers, "web").await;
    wait_members(&first, 2).await;
    wait_members(&second, 2).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(connect(first.main(), 1).await.unwrap());
    }
    let name = "leastconn_server_connections_elsewhere{upstream=\"web\",server=\"web1\"} 6";
    let known = eventually(DEADLINE, || async {
        let (_, metrics) = second
            .try_http_get("/metrics")
            .await
            .map_err(|e| e.to_string())?;
        match metrics.lines().any(|line| line == name) {
            true => Ok(()),
            false => Err(metrics),
        }
    });
    known.await.unwrap();
    for _ in 0..6 {
        let (stream, server) = connect(second.main(), 1).await.unwrap();
        assert_eq!(server, "web2");
        open.push((stream, server));
    }
    drop(open);
    stop(vec![first, second]).await;
}
