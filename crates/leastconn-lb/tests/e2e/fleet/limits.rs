//! One client's limits apply to all members together.

use std::{collections::HashSet, process::Command, time::Duration};

use leastconn_testkit::{DEADLINE, StoreKind, StoreServer, Upstream, eventually};
use tokio::{task::JoinSet, time::Instant};

use super::{
    both_stores,
    harness::{
        connect, figure, is_long, members, outcomes, site, stop, wait_elsewhere, wait_members,
    },
};
use crate::support::Running;

both_stores! {
    flood_is_limited_to_the_rate_of_one_balancer,
    wrong_clocks_change_no_limit,
    exact_mode_never_exceeds_the_rate,
    max_conns_is_exact_in_exact_mode,
    max_conns_is_nearly_exact_in_fast_mode,
    other_clients_are_not_affected,
}

/// Admitted connections while the client `127.0.0.1` floods members for `time`. `flooding` has
/// the number of connecting tasks for each member. Refused connections cost the balancer little,
/// so a few tasks are a flood.
async fn flood_members(all: &[Running], flooding: [usize; 3], time: Duration) -> (usize, Duration) {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for (member, count) in all.iter().zip(flooding) {
        for _ in 0..count {
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
    assert!(outcomes(all, "rate_limited") > 0);
    assert_eq!(outcomes(all, "connect_failed"), 0);
    (admitted, took)
}

async fn flood(
    kind: StoreKind,
    mode: &str,
    flooding: [usize; 3],
    time: Duration,
) -> (usize, Duration) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let mode = format!("limits = \"{mode}\"");
    let url = format!("{:?}", store.url());
    let all = members(3, &url, &[&web], RATE_LIMIT, &mode).await;
    let result = flood_members(&all, flooding, time).await;
    stop(all).await;
    result
}

const RATE: u32 = 20;
const RATE_LIMIT: &str = "rate_limit = { rate = 20, burst = 20 }";

/// What one balancer admits in `time`.
fn expected(time: Duration) -> f64 {
    f64::from(RATE) * (1.0 + time.as_secs_f64())
}

/// Within 2 % and one connection per member of what one balancer admits.
fn assert_as_one_balancer(test: &str, kind: StoreKind, (admitted, took): (usize, Duration)) {
    let expected = expected(took);
    let tolerance = expected * 0.02 + 3.0;
    let measured = format!("{admitted} for {expected:.0}");
    figure(test, kind, &measured, "±2 % and ±3");
    let difference = admitted as f64 - expected;
    assert!(difference <= tolerance, "{measured}");
    // A short flood may end between two tokens.
    assert!(difference >= -tolerance - 3.0, "{measured}");
}

async fn flood_is_limited_to_the_rate_of_one_balancer(kind: StoreKind) {
    let time = Duration::from_secs(if is_long() { 10 } else { 3 });
    let splits: &[_] = if is_long() {
        &[[2, 2, 2], [6, 0, 0], [4, 1, 1], [3, 3, 0]]
    } else {
        &[[2, 2, 2]]
    };
    for split in splits {
        let test = format!("flood on 3, fast, {split:?}");
        assert_as_one_balancer(&test, kind, flood(kind, "fast", *split, time).await);
    }
}

/// Clocks of balancers that are an hour fast or slow change no limit, because times are those of
/// the store and of the monotonic clock.
async fn wrong_clocks_change_no_limit(kind: StoreKind) {
    // The program `faketime` would stay the parent process, and does not pass signals on.
    let library = Command::new("faketime")
        .args(["-f", "+0", "printenv", "LD_PRELOAD"])
        .output();
    let Ok(library) = library else {
        return println!("faketime is not installed: the test is skipped");
    };
    let library = String::from_utf8(library.stdout).unwrap();
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let mut all = Vec::new();
    for (n, offset) in [(1, "+1h"), (2, "+0"), (3, "-1h")] {
        let site = site(&format!("lb{n}"), &url, &[&web], RATE_LIMIT, "");
        let shift = |command: &mut Command| {
            command
                .env("LD_PRELOAD", library.trim())
                .env("FAKETIME", offset)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        };
        all.push(site.start_with(shift).await);
    }
    for member in &all {
        wait_members(member, 3).await;
    }
    let time = Duration::from_secs(if is_long() { 10 } else { 3 });
    let result = flood_members(&all, [2, 2, 2], time).await;
    assert_as_one_balancer("flood on 3, clocks +1 h, 0, -1 h", kind, result);
    // The clocks were wrong indeed.
    let hours: HashSet<_> = all
        .iter()
        .map(|member| member.records()[0]["time"].as_str().unwrap()[11..13].to_owned())
        .collect();
    assert_eq!(hours.len(), 3, "{hours:?}");
    stop(all).await;
}

async fn exact_mode_never_exceeds_the_rate(kind: StoreKind) {
    let time = Duration::from_secs(if is_long() { 10 } else { 2 });
    let (admitted, took) = flood(kind, "exact", [2, 2, 2], time).await;
    let expected = expected(took);
    let measured = format!("{admitted} for {expected:.0}");
    figure("flood on 3, exact", kind, &measured, "never over");
    assert!(admitted as f64 <= expected + 1.0, "{measured}");
    assert!(admitted as f64 >= expected * 0.9, "{measured}");
}

async fn max_conns(kind: StoreKind, mode: &str) -> usize {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    // On a busy machine, the store may answer later than the default allows. The members then decide
    // without it.
    let mode = format!("limits = \"{mode}\"\nask_timeout = \"250ms\"");
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
