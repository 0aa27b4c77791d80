//! Least connections over the connections of all members.

use std::time::Duration;

use leastconn_testkit::{DEADLINE, Signal, StoreKind, StoreServer, Upstream};
use tokio::{task::JoinSet, time::Instant};

use super::{
    both_stores,
    harness::{connect, figure, is_long, members, stop, wait_elsewhere, wait_members},
};
use crate::support::{BIN, NO_PROBES, Running, Site, entries, named_servers};

both_stores! {
    connections_are_spread_over_servers_across_members,
    connections_are_spread_although_clients_differ,
    killed_member_no_longer_counts,
}

/// Peak divided by mean of the servers' connections, averaged over the samples.
async fn peak_to_mean(web: &[Upstream], samples: u32) -> f64 {
    let mut total = 0.0;
    for _ in 0..samples {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let open: Vec<_> = web.iter().map(Upstream::open).collect();
        let mean = open.iter().sum::<usize>() as f64 / open.len() as f64;
        let peak = open.iter().copied().max().unwrap_or(0) as f64;
        total += peak / mean.max(1.0);
    }
    total / f64::from(samples)
}

/// Exponentially distributed with this mean. `seed` is advanced.
fn exponential(mean: f64, seed: &mut u64) -> f64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let uniform = (*seed >> 11) as f64 / (1_u64 << 53) as f64;
    -mean * (1.0 - uniform).ln()
}

/// Connections that arrive at random times. `place` returns the member and the last byte of the
/// client's address for the nth connection. Returns peak divided by mean of the servers.
async fn spread(all: &[Running], web: &[Upstream], place: impl Fn(usize) -> (usize, u8)) -> f64 {
    let (rate, hold, seconds) = if is_long() {
        (300.0, 2.0, 15.0)
    } else {
        (120.0, 1.0, 4.0)
    };
    let mut seed = 42;
    let mut clients = JoinSet::new();
    let start = Instant::now();
    let mut at = 0.0;
    let mut n = 0;
    while at < seconds {
        at += exponential(1.0 / rate, &mut seed);
        let hold = exponential(hold, &mut seed);
        let (member, source) = place(n);
        let address = all[member].main();
        n += 1;
        let begin = start + Duration::from_secs_f64(at);
        clients.spawn(async move {
            tokio::time::sleep_until(begin).await;
            let stream = connect(address, source).await;
            assert!(stream.is_some());
            tokio::time::sleep(Duration::from_secs_f64(hold)).await;
        });
    }
    tokio::time::sleep_until(start + Duration::from_secs_f64(2.0 * hold)).await;
    let samples = (seconds - 2.0 * hold) / 0.055;
    let measured = peak_to_mean(web, samples as u32).await;
    clients.abort_all();
    measured
}

async fn connections_are_spread_over_servers_across_members(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = named_servers(8).await;
    let web_list: Vec<_> = web.iter().collect();
    let url = format!("{:?}", store.url());
    let all = members(3, &url, &web_list, "", "").await;
    let measured = spread(&all, &web, |n| (n % 3, 1)).await;
    // Short tests run beside others, on a busy machine.
    let target = if is_long() { 1.05 } else { 1.25 };
    figure(
        "peak/mean of 8 servers, 3 balancers",
        kind,
        format!("{measured:.3}"),
        format!("{target}"),
    );
    assert!(measured <= target, "{measured}");
    stop(all).await;
}

/// Half of all connections are allowed only the first four of eight servers, and all of these
/// connect to one member. The other members must send their connections to the other servers.
async fn connections_are_spread_although_clients_differ(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = named_servers(8).await;
    let web_list: Vec<_> = web.iter().collect();
    let half = "\"web/web1\", \"web/web2\", \"web/web3\", \"web/web4\"";
    let mut all = Vec::new();
    for n in 1..=3 {
        let site = Site::new()
            .fleet(&format!("lb{n}"), &format!("{:?}", store.url()), "")
            .listener("main", &["upstream = \"web\""])
            .upstream("web", &[NO_PROBES], &entries(&web_list))
            .client("half", "source = \"127.0.0.1/32\"", "HALF", "")
            .client("all", "source = \"127.0.0.2/32\"", "web", "");
        let config = site.config().replace("\"HALF\"", half);
        all.push(site.start_as_with(BIN, &config, |_| {}).await);
    }
    for member in &all {
        wait_members(member, 3).await;
    }
    let place = |n| {
        if n % 2 == 0 {
            (0, 1)
        } else {
            (1 + n / 2 % 2, 2)
        }
    };
    let measured = spread(&all, &web, place).await;
    let target = if is_long() { 1.10 } else { 1.3 };
    figure(
        "peak/mean, asymmetric `allow`",
        kind,
        format!("{measured:.3}"),
        format!("{target}, 1.5 without sharing"),
    );
    assert!(measured <= target, "{measured}");
    stop(all).await;
}

async fn killed_member_no_longer_counts(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let mut all = members(3, &url, &[&web], "max_conns = 6", "").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connect(all[2].main(), 1).await.expect("an admitted client"));
    }
    wait_elsewhere(&all[0], 3.0).await;
    let killed = all.pop().unwrap();
    killed.signal(Signal::KILL);
    killed.wait_exit(DEADLINE).await;
    let took = wait_elsewhere(&all[0], 0.0).await;
    figure(
        "counts of a killed balancer are gone",
        kind,
        format!("{:.1} s", took.as_secs_f64()),
        "3.5 s",
    );
    // Polling the metrics takes a while in debug builds on a busy machine.
    assert!(took < Duration::from_millis(4_000), "{took:?}");
    // Its connections no longer count against the client.
    let mut more = Vec::new();
    for _ in 0..6 {
        more.push(connect(all[0].main(), 1).await.expect("an admitted client"));
    }
    drop((open, more));
    stop(all).await;
}
