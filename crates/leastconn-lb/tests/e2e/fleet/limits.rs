//! One client's limits apply to all members together.

use std::time::Duration;

use leastconn_testkit::{DEADLINE, StoreKind, StoreServer, Upstream, eventually};
use tokio::{task::JoinSet, time::Instant};

use super::{
    both_stores,
    harness::{connect, figure, is_long, members, outcomes, stop, wait_elsewhere},
};

both_stores! {
    flood_is_limited_to_the_rate_of_one_balancer,
    exact_mode_never_exceeds_the_rate,
    max_conns_is_exact_in_exact_mode,
    max_conns_is_nearly_exact_in_fast_mode,
    other_clients_are_not_affected,
}

/// Admitted connections while the client `127.0.0.1` floods all members for `time`.
async fn flood(kind: StoreKind, mode: &str, rate: u32, time: Duration) -> (usize, Duration) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let limit = format!("rate_limit = {{ rate = {rate}, burst = {rate} }}");
    let mode = format!("limits = \"{mode}\"");
    let url = format!("{:?}", store.url());
    let all = members(3, &url, &[&web], &limit, &mode).await;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for member in &all {
        // Refused connections cost the balancer little, so a few clients are a flood.
        for _ in 0..2 {
            let address = member.main();
            clients.spawn(async move {
                let mut admitted = 0;
                while start.elapsed() < time {
                    admitted += usize::from(connect(address, 1).await.is_some());
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                admitted
            });
        }
    }
    let admitted = clients.join_all().await.into_iter().sum();
    let took = start.elapsed();
    assert!(outcomes(&all, "rate_limited") > 0);
    assert_eq!(outcomes(&all, "connect_failed"), 0);
    stop(all).await;
    (admitted, took)
}

/// What one balancer admits in `time`.
fn expected(rate: u32, time: Duration) -> f64 {
    f64::from(rate) * (1.0 + time.as_secs_f64())
}

async fn flood_is_limited_to_the_rate_of_one_balancer(kind: StoreKind) {
    let time = Duration::from_secs(if is_long() { 10 } else { 3 });
    let (admitted, took) = flood(kind, "fast", 20, time).await;
    let expected = expected(20, took);
    let tolerance = expected * 0.02 + 3.0;
    let measured = format!("{admitted} for {expected:.0}");
    figure("flood on 3, fast", kind, &measured, "±2 % and ±3");
    let difference = admitted as f64 - expected;
    assert!(difference <= tolerance, "{measured}");
    // A short flood may end between two tokens.
    assert!(difference >= -tolerance - 3.0, "{measured}");
}

async fn exact_mode_never_exceeds_the_rate(kind: StoreKind) {
    let time = Duration::from_secs(if is_long() { 10 } else { 2 });
    let (admitted, took) = flood(kind, "exact", 20, time).await;
    let expected = expected(20, took);
    let measured = format!("{admitted} for {expected:.0}");
    figure("flood on 3, exact", kind, &measured, "never over");
    assert!(admitted as f64 <= expected + 1.0, "{measured}");
    assert!(admitted as f64 >= expected * 0.9, "{measured}");
}

async fn max_conns(kind: StoreKind, mode: &str) -> usize {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let mode = format!("limits = \"{mode}\"");
    let url = format!("{:?}", store.url());
    let all = members(3, &url, &[&web], "max_conns = 10", &mode).await;
    let mut clients = JoinSet::new();
    for n in 0..100 {
        let address = all[n % 3].main();
        clients.spawn(async move { connect(address, 1).await });
    }
    let open: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    let admitted = open.len();
    drop(open);
    // Nothing of the client is left in the store.
    let keys = eventually(DEADLINE, || async {
        let keys = store.keys().await;
        match keys.iter().find(|key| key.contains(":l:")) {
            None => Ok(()),
            Some(key) => Err(format!("{key} is left")),
        }
    });
    keys.await.unwrap();
    stop(all).await;
    // Members that stop leave the store.
    let members = store.command(&["HKEYS", "lc1:{test}:m"]).await.texts();
    assert_eq!(members, [".since"]);
    admitted
}

async fn max_conns_is_exact_in_exact_mode(kind: StoreKind) {
    let admitted = max_conns(kind, "exact").await;
    figure("max_conns = 10, 100 at once, exact", kind, admitted, "10");
    assert_eq!(admitted, 10);
}

async fn max_conns_is_nearly_exact_in_fast_mode(kind: StoreKind) {
    let admitted = max_conns(kind, "fast").await;
    figure(
        "max_conns = 10, 100 at once, fast",
        kind,
        admitted,
        "10 to 12",
    );
    assert!((10..=12).contains(&admitted), "{admitted}");
}

async fn other_clients_are_not_affected(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let limit = "rate_limit = { rate = 0.01, burst = 2 }\nmax_conns = 2";
    let url = format!("{:?}", store.url());
    let all = members(2, &url, &[&web], limit, "").await;
    let mut open = Vec::new();
    for source in 1..=3 {
        // The last token and the last connection are taken on the other member.
        for (member, other) in [(&all[0], &all[1]), (&all[1], &all[0])] {
            open.push(
                connect(member.main(), source)
                    .await
                    .expect("an admitted client"),
            );
            wait_elsewhere(other, f64::from(source)).await;
        }
        for member in &all {
            assert!(connect(member.main(), source).await.is_none());
        }
    }
    assert_eq!(web.open(), 6);
    drop(open);
    stop(all).await;
}
