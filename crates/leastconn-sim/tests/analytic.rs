//! Simulations whose results are known, and reproducibility.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::{num::NonZeroU32, time::Duration};

use leastconn::{Balance, QueuePolicy};
use leastconn_sim::{
    meter::Outcome,
    report, scenario,
    simulation::simulate,
    site::{Change, Condition, Policy, ServerSetup, Sharing, Site, TimedChange},
    workload::{Hold, Process, Workload},
};

const SECOND: Duration = Duration::from_secs(1);

fn site(servers: usize) -> Site {
    let name = |number| format!("server{number}");
    Site {
        servers: (0..servers).map(name).map(ServerSetup::new).collect(),
        balancers: 1,
        allowed: Vec::new(),
        sharing: Sharing::OwnCounts,
        policy: Policy::default(),
        changes: Vec::new(),
        warm_up: 10 * SECOND,
        duration: 60 * SECOND,
        watched: None,
    }
}

fn poisson(hold: Hold) -> Workload {
    Workload {
        initial: 0,
        process: Some(Process::Poisson { rate: 200.0 }),
        hold,
        sources: 1_000,
    }
}

fn run(site: &Site, workload: &Workload, balance: Balance, seed: u64) -> Outcome {
    let arrivals = workload.arrivals(site.duration, site.balancers, seed);
    simulate(site, &arrivals, balance, seed).unwrap()
}

#[test]
fn same_seed_gives_the_same_results() {
    let json = |seed| {
        let reports = scenario::all().into_iter().map(|mut scenario| {
            scenario.runs = 1;
            scenario.site.duration = scenario.site.duration.min(16 * SECOND);
            report::run(&scenario, seed).unwrap()
        });
        serde_json::to_string(&reports.collect::<Vec<_>>()).unwrap()
    };
    let first = json(3);
    assert!(first == json(3));
    assert!(first != json(4));
}

/// The peak/mean ratio for each way of sharing counts in a scenario.
fn shared(name: &str) -> Vec<(String, f64)> {
    let scenarios = scenario::all();
    let mut scenario = scenarios.into_iter().find(|s| s.name == name).unwrap();
    scenario.runs = scenario.runs.min(5);
    let report = report::run(&scenario, 1).unwrap();
    let rows = report.rows.into_iter();
    rows.map(|row| (row.algorithm, row.values[0])).collect()
}

#[test]
fn echo_makes_old_counts_of_other_balancers_useful() {
    for (name, own, with_echo) in [
        ("fleet", 1.00..1.05, 1.00..1.08),
        ("fleet-allow", 1.40..1.70, 1.00..1.10),
        ("fleet-few", 1.40..1.80, 1.00..1.40),
    ] {
        let rows = shared(name);
        let of = |row: &str| rows.iter().find(|(name, _)| name == row).unwrap().1;
        assert!(own.contains(&of("own counts")), "{name}: {rows:?}");
        assert!(with_echo.contains(&of("every 100 ms")), "{name}: {rows:?}");
        assert!(
            of("every 500 ms") <= of("every 500 ms, no echo"),
            "{name}: {rows:?}"
        );
    }
}

#[test]
fn simultaneous_connections_spread_within_one() {
    for (count, servers) in [(1_000, 7), (100, 8), (5, 4)] {
        let workload = Workload {
            initial: count,
            process: None,
            hold: Hold::Fixed(100 * SECOND),
            sources: 1,
        };
        let outcome = run(&site(servers), &workload, Balance::LeastConn, 1);
        let (count, servers) = (count as f64, servers as f64);
        let most = (count / servers).ceil();
        assert!(
            (f64::from(outcome.most_open) - most).abs() < 1e-9,
            "{outcome:?}"
        );
        assert!((outcome.peak_to_mean - most * servers / count).abs() < 1e-9);
    }
}

/// With random choice, the open connections of each server are independent and have a Poisson
/// distribution with the mean rate × hold / servers, here 50. The expected maximum of eight
/// such numbers is 1.42 standard deviations above the mean.
#[test]
fn random_choice_matches_the_poisson_distribution() {
    let workload = poisson(Hold::Exponential(2 * SECOND));
    let ratios = (0..5).map(|seed| run(&site(8), &workload, Balance::Random, seed).peak_to_mean);
    let mean = ratios.sum::<f64>() / 5.0;
    let expected = 1.0 + 1.424 * 50f64.sqrt() / 50.0;
    assert!(
        (mean - expected).abs() < 0.02,
        "{mean}, expected {expected}"
    );
}

#[test]
fn least_conn_is_the_most_even() {
    let workload = poisson(Hold::Exponential(2 * SECOND));
    let ratio = |balance| run(&site(8), &workload, balance, 1).peak_to_mean;
    let least_conn = ratio(Balance::LeastConn);
    assert!(least_conn < 1.02, "{least_conn}");
    for balance in [
        Balance::P2c,
        Balance::RoundRobin,
        Balance::Random,
        Balance::SourceHash,
    ] {
        assert!(ratio(balance) > least_conn + 0.01, "{balance}");
    }
}

#[test]
fn weights_are_proportional() {
    let mut site = site(2);
    site.servers[1].weight = leastconn::Weight::new(3).unwrap();
    for balance in [
        Balance::LeastConn,
        Balance::P2c,
        Balance::RoundRobin,
        Balance::Random,
    ] {
        let outcome = run(&site, &poisson(Hold::Exponential(SECOND)), balance, 1);
        assert!(
            (outcome.share_of(1) - 0.75).abs() < 0.03,
            "{balance}: {:?}",
            outcome.connects
        );
    }
}

#[test]
fn server_that_closes_at_once_draws_few_connections() {
    let mut site = site(4);
    site.changes = vec![TimedChange {
        at: 9 * SECOND,
        server: 0,
        change: Change::Condition(Condition::ClosingAtOnce),
    }];
    let workload = poisson(Hold::Exponential(SECOND));
    for &balance in Balance::ALL {
        let outcome = run(&site, &workload, balance, 1);
        assert!(
            outcome.share_of(0) < 0.01,
            "{balance}: {:?}",
            outcome.connects
        );
    }
    // Without ejection, the server looks idle and draws most connections. Its failures within the
    // last second count as connections, which limits this.
    site.policy.passive.max_early = 0;
    let outcome = run(&site, &workload, Balance::LeastConn, 1);
    assert!(
        (0.1..0.5).contains(&outcome.share_of(0)),
        "{:?}",
        outcome.connects
    );
}

/// 100 connections of one second for 80 places: 20 wait for a second.
#[test]
fn queued_connections_get_the_first_free_places() {
    let mut site = site(4);
    for server in &mut site.servers {
        server.max_conns = NonZeroU32::new(20);
    }
    site.warm_up = Duration::ZERO;
    let workload = Workload {
        initial: 100,
        process: None,
        hold: Hold::Fixed(SECOND),
        sources: 1_000,
    };
    for (queue, refused, longest) in [(0, 20, 0), (15, 5, 1), (100, 0, 1)] {
        site.policy.queue = QueuePolicy::new(queue, 5 * SECOND);
        for &balance in Balance::ALL {
            let outcome = run(&site, &workload, balance, 1);
            assert_eq!(
                (outcome.refused, outcome.most_open),
                (refused, 20),
                "{balance}"
            );
            let longest_wait = outcome.waits.iter().max().unwrap();
            assert_eq!(longest_wait.as_secs(), longest, "{balance}");
        }
    }
    // No connection gets a place within half a second.
    site.policy.queue = QueuePolicy::new(100, SECOND / 2);
    assert_eq!(run(&site, &workload, Balance::LeastConn, 1).refused, 20);
}

#[test]
fn queued_connections_wait_for_allowed_servers_only() {
    let mut site = site(2);
    for server in &mut site.servers {
        server.max_conns = NonZeroU32::new(20);
    }
    site.allowed = vec![vec![0]];
    site.warm_up = Duration::ZERO;
    site.policy.queue = QueuePolicy::new(100, 5 * SECOND);
    let workload = Workload {
        initial: 30,
        process: None,
        hold: Hold::Fixed(SECOND),
        sources: 1_000,
    };
    let outcome = run(&site, &workload, Balance::LeastConn, 1);
    assert_eq!(outcome.connects, [30, 0]);
}

#[test]
fn refusing_server_fails_no_client() {
    let mut site = site(4);
    site.changes = vec![TimedChange {
        at: 20 * SECOND,
        server: 0,
        change: Change::Condition(Condition::Refusing),
    }];
    for &balance in Balance::ALL {
        let outcome = run(&site, &poisson(Hold::Exponential(SECOND)), balance, 1);
        assert_eq!((outcome.refused, outcome.failed), (0, 0), "{balance}");
        assert!(
            outcome.connects[0] * 2 < outcome.connects[1],
            "{balance}: {:?}",
            outcome.connects
        );
    }
}
