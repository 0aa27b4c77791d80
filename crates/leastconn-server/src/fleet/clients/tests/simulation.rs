//! Loads on several members, compared with one exact limiter.

use leastconn::Limiter;

use super::*;

/// Attempts in the order of time: milliseconds and member.
type Attempts = Vec<(u64, usize)>;

/// Attempts of all members, evenly spaced, each at its own phase.
fn flood(members: usize, per_second: u64, seconds: u64) -> Attempts {
    let mut attempts = Vec::new();
    for member in 0..members {
        let spacing = 1_000.0 / per_second as f64;
        let phase = spacing * member as f64 / members as f64;
        let count = per_second * seconds;
        attempts.extend((0..count).map(|n| ((n as f64 * spacing + phase) as u64, member)));
    }
    attempts.sort_unstable();
    attempts
}

struct Outcome {
    admitted: u32,
    /// By one limiter with the same attempts.
    exact: u32,
    asked: u64,
}

/// Runs the attempts of one client. Every connection is open for `hold`.
async fn run(fleet: &Fleet, attempts: &Attempts, limits: &Limits, hold: Duration) -> Outcome {
    let start = tokio::time::Instant::now();
    let reference = Limiter::new(10, net::now());
    let mut tasks = tokio::task::JoinSet::new();
    let mut exact = 0;
    for &(at, member) in attempts {
        tokio::time::sleep_until(start + Duration::from_millis(at)).await;
        if let Ok(permit) = reference.admit(&alice(), limits, net::now()) {
            exact += 1;
            tasks.spawn(async move {
                tokio::time::sleep(hold).await;
                drop(permit);
                0
            });
        }
        let admission = Arc::clone(&fleet.members[member].admission);
        let limits = *limits;
        tasks.spawn(async move {
            let decision = admission.admit(&alice(), &limits, net::now());
            let permit = match decision {
                Ok(ClientDecision::Admitted(permit)) => permit,
                Ok(ClientDecision::Ask(ask)) => match ask.wait().await {
                    Ok(permit) => permit,
                    Err(_) => return 0,
                },
                Err(_) => return 0,
            };
            tokio::time::sleep(hold).await;
            drop(permit);
            1
        });
    }
    let admitted = tasks.join_all().await.into_iter().sum();
    let asks = fleet.members.iter().map(|member| member.admission.asks());
    Outcome {
        admitted,
        exact,
        asked: asks.map(|a| a.granted + a.refused + a.timeout).sum(),
    }
}

const NO_TIME: Duration = Duration::ZERO;

#[tokio::test(start_paused = true)]
async fn flood_gets_what_one_balancer_admits() {
    let limits = limits(Some((20.0, 20)), None);
    for (members, seconds) in [(3, 1), (3, 10), (8, 10)] {
        let fleet = Fleet::start(members, SharedLimits::Fast).await;
        let attempts = flood(members, 100, seconds);
        let outcome = run(&fleet, &attempts, &limits, NO_TIME).await;
        let Outcome {
            admitted, exact, ..
        } = outcome;
        println!("{members} members, {seconds} s: {admitted} instead of {exact}");
        let tolerance = members as u32 + exact / 50;
        assert!(admitted.abs_diff(exact) <= tolerance, "{admitted} {exact}");
    }
}

#[tokio::test(start_paused = true)]
async fn uneven_flood_gets_what_one_balancer_admits() {
    let limits = limits(Some((20.0, 20)), None);
    let fleet = Fleet::start(3, SharedLimits::Fast).await;
    let mut attempts = flood(1, 300, 10);
    attempts.extend(flood(1, 15, 10).iter().map(|(at, _)| (*at, 1)));
    attempts.extend(flood(1, 5, 5).iter().map(|(at, _)| (5_000 + *at, 2)));
    attempts.sort_unstable();
    let Outcome {
        admitted, exact, ..
    } = run(&fleet, &attempts, &limits, NO_TIME).await;
    println!("{admitted} instead of {exact}");
    assert!(admitted.abs_diff(exact) <= 3 + exact / 50);
}

#[tokio::test(start_paused = true)]
async fn exact_flood_is_never_over() {
    let limits = limits(Some((20.0, 20)), None);
    for members in [3, 8] {
        let fleet = Fleet::start(members, SharedLimits::Exact).await;
        let attempts = flood(members, 100, 10);
        let Outcome {
            admitted, exact, ..
        } = run(&fleet, &attempts, &limits, NO_TIME).await;
        println!("{members} members: {admitted} instead of {exact}");
        assert!(admitted <= exact, "{admitted} {exact}");
        assert!(admitted + 3 >= exact, "{admitted} {exact}");
    }
}

#[tokio::test(start_paused = true)]
async fn bursts_at_once_are_repaid() {
    let limits = limits(Some((20.0, 20)), None);
    let burst = |at: u64| (0..60).map(move |n| (at, n % 3));
    for (mode, most) in [(SharedLimits::Fast, 26), (SharedLimits::Exact, 20)] {
        let fleet = Fleet::start(3, mode).await;
        let attempts: Attempts = burst(0).collect();
        let first = run(&fleet, &attempts, &limits, NO_TIME).await;
        println!("{mode:?}: {} at once", first.admitted);
        assert!((20..=most).contains(&first.admitted), "{}", first.admitted);
        // Two seconds restore 40 tokens: what was admitted in excess is missing.
        let attempts = flood(3, 100, 2);
        let then = run(&fleet, &attempts, &limits, NO_TIME).await;
        let total = first.admitted + then.admitted;
        println!("{mode:?}: {total} after two seconds");
        assert!((56..=62).contains(&total), "{total}");
    }
}

#[tokio::test(start_paused = true)]
async fn load_below_the_limit_never_asks() {
    let limits = limits(Some((20.0, 20)), None);
    let fleet = Fleet::start(3, SharedLimits::Fast).await;
    let attempts = flood(3, 6, 28);
    let outcome = run(&fleet, &attempts, &limits, NO_TIME).await;
    assert_eq!(outcome.admitted, attempts.len() as u32);
    assert_eq!(outcome.asked, 0);
}

/// 100 connections at about the same time, which stay open.
async fn rush(members: usize, mode: SharedLimits, max: u32) -> u32 {
    let fleet = Fleet::start(members, mode).await;
    let attempts: Attempts = (0..100).map(|n| (n as u64 / 10, n % members)).collect();
    let hold = Duration::from_secs(5);
    let limits = limits(None, Some(max));
    let outcome = run(&fleet, &attempts, &limits, hold).await;
    millis(200).await;
    assert_eq!(fleet.server.clients(), 0, "no key is left");
    outcome.admitted
}

#[tokio::test(start_paused = true)]
async fn max_conns_holds_over_the_fleet() {
    for (members, max) in [(3, 10), (3, 1), (8, 10), (3, 50)] {
        let exact = rush(members, SharedLimits::Exact, max).await;
        assert_eq!(exact, max, "{members} members");
        let fast = rush(members, SharedLimits::Fast, max).await;
        println!("{members} members, max_conns {max}: {fast}");
        let tolerance = if max == 1 { 0 } else { max.div_ceil(5) };
        assert!((max..=max + tolerance).contains(&fast), "{fast} of {max}");
    }
}

#[tokio::test(start_paused = true)]
async fn member_that_is_cut_off_adds_its_share() {
    let limits = limits(Some((20.0, 20)), None);
    let mut fleet = Fleet::start(3, SharedLimits::Fast).await;
    let attempts = flood(3, 100, 20);
    // As a firewall between this member and the store.
    fleet.members[0].kill();
    let outcome = run(&fleet, &attempts, &limits, NO_TIME).await;
    let ratio = f64::from(outcome.admitted) / f64::from(outcome.exact);
    println!("{} instead of {}", outcome.admitted, outcome.exact);
    assert!(ratio <= 1.34, "{ratio}");
}

#[tokio::test(start_paused = true)]
async fn fleet_without_a_store_stays_at_the_limit() {
    let limits = limits(Some((20.0, 20)), None);
    let fleet = Fleet::start(3, SharedLimits::Fast).await;
    let attempts = flood(3, 100, 10);
    fleet.server.set_reachable(false);
    let Outcome {
        admitted, exact, ..
    } = run(&fleet, &attempts, &limits, NO_TIME).await;
    println!("{admitted} instead of {exact}");
    assert!(admitted.abs_diff(exact) <= exact / 10, "{admitted} {exact}");
    // The store is back: nothing is counted twice.
    fleet.server.set_reachable(true);
    millis(2_000).await;
    let attempts = flood(3, 100, 5);
    let Outcome {
        admitted, exact, ..
    } = run(&fleet, &attempts, &limits, NO_TIME).await;
    println!("{admitted} instead of {exact} afterwards");
    assert!(
        admitted.abs_diff(exact) <= 3 + exact / 10,
        "{admitted} {exact}"
    );
}
