//! Simulations of slow start. Connections of a fixed duration arrive at a steady rate, and the
//! share of a ramping server is checked in each interval.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
    time::{Duration, Instant},
};

use leastconn::{AdminState, Balance, Lease, PickRequest, Pool, ServerSpec, Source, Weight};

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise; only differences are used"
)]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const SLOW: Duration = Duration::from_secs(60);

fn specs(weights: &[u32]) -> Vec<ServerSpec> {
    let spec = |(number, &weight): (usize, &u32)| {
        ServerSpec::new(number.to_string(), SocketAddr::from(([127, 0, 0, 1], 80)))
            .weight(Weight::new(weight).unwrap())
    };
    weights.iter().enumerate().map(spec).collect()
}

/// A simulated site with a fixed arrival rate, connections of equal duration, and a clock.
struct Site {
    pool: Pool,
    now: Instant,
    /// Time between two arrivals.
    gap: Duration,
    lives: Duration,
    open: VecDeque<(Instant, Lease)>,
    arrived: u32,
}

impl Site {
    fn new(balance: Balance, weights: &[u32], a_second: u32, lives: Duration) -> Self {
        Self::with_slow_start(SLOW, balance, weights, a_second, lives)
    }

    fn with_slow_start(
        slow_start: Duration,
        balance: Balance,
        weights: &[u32],
        a_second: u32,
        lives: Duration,
    ) -> Self {
        let pool = Pool::builder("pool")
            .servers(specs(weights))
            .balance(balance)
            .slow_start(slow_start)
            .seed(5);
        Self {
            pool: pool.build().unwrap(),
            now: *START,
            gap: Duration::from_secs(1) / a_second,
            lives,
            open: VecDeque::new(),
            arrived: 0,
        }
    }

    /// Simulates `time` and returns the number of new connections for each server.
    fn run(&mut self, time: Duration) -> Vec<u32> {
        let end = self.now + time;
        let mut got = vec![0; 16];
        while self.now < end {
            while self.open.front().is_some_and(|(ends, _)| *ends <= self.now) {
                self.open.pop_front();
            }
            self.arrived += 1;
            let source = IpAddr::from(Ipv4Addr::from(self.arrived));
            let request = PickRequest::new(self.now).source(Source::from(source));
            let lease = self.pool.pick_for(&self.pool.all(), &request).unwrap();
            got[lease.server().id().as_str().parse::<usize>().unwrap()] += 1;
            self.open.push_back((self.now + self.lives, lease));
            self.now += self.gap;
        }
        got
    }

    fn set(&self, server: &str, state: AdminState) {
        self.pool.server(server).unwrap().set_admin(state);
    }

    fn in_flight(&self) -> Vec<u32> {
        let members = self.pool.members();
        members
            .iter()
            .map(|member| member.server.in_flight())
            .collect()
    }
}

/// Returns an upper bound on the number of successes in `n` draws with this probability. The number
/// exceeds the bound in one of 3.5 million cases.
fn at_most(n: u32, chance: f64) -> f64 {
    let n = f64::from(n);
    n * chance + 5.0 * (n * chance * (1.0 - chance)).sqrt()
}

const SECOND: Duration = Duration::from_secs(1);

/// Simulates `count` seconds. For each second, returns the number of new connections to `server`
/// and the total number of new connections.
fn seconds(site: &mut Site, server: usize, count: u32) -> Vec<(u32, u32)> {
    (0..count)
        .map(|_| {
            let got = site.run(SECOND);
            (got[server], got.iter().sum())
        })
        .collect()
}

/// Returns the limit after this many seconds of slow start, as a multiple of the server's share.
/// `lacking`: the server lacks connections, because connections last longer than slow start.
fn limit_after(seconds: u32, lacking: bool) -> f64 {
    let ramp = (f64::from(seconds) / SLOW.as_secs_f64()).clamp(0.1, 1.0);
    if lacking {
        (ramp + 3.0 * (ramp - 0.1)).min(1.4)
    } else {
        ramp
    }
}

/// Checks each second after the recovery of a server whose connections last longer than slow start,
/// both during and after slow start. `share` is the server's fraction of the total weight.
#[track_caller]
fn assert_ramp(seconds: &[(u32, u32)], share: f64) {
    for (second, &(got, total)) in (1..).zip(seconds) {
        // The draws are spread evenly, so the number is exact except for rounding.
        let most = f64::from(total) * (share * limit_after(second, true)).min(1.0) + 3.0;
        assert!(
            f64::from(got) <= most,
            "second {second}: {got} of {total}, at most {most}"
        );
    }
}

#[test]
fn least_conn_ramp_is_bounded_each_second() {
    // Test both short connections and connections that last much longer than slow start. In the
    // latter case, the ramping server always has the fewest connections.
    for lives in [SECOND, 600 * SECOND] {
        for maintained in [false, true] {
            let mut site = Site::new(Balance::LeastConn, &[1, 1, 1, 1], 1_000, lives);
            let server = site.pool.server("2").unwrap();
            if maintained {
                server.set_admin(AdminState::Maint);
            } else {
                server.connect_failed(site.now, site.now);
            }
            site.run(5 * SECOND);
            if maintained {
                server.set_admin(AdminState::Ready);
            } else {
                server.connect_succeeded();
            }
            let ramp = seconds(&mut site, 2, 200);
            assert_ramp(&ramp, 0.25);
            // The server also gets nearly as many connections as the ramp allows.
            let got: u32 = ramp[..60].iter().map(|second| second.0).sum();
            let expected = if lives == SECOND {
                for (second, &(got, total)) in (1..=60).zip(&ramp) {
                    let most = at_most(total, 0.25 * limit_after(second, false));
                    assert!(f64::from(got) <= most, "second {second}: {got}");
                }
                6_500..8_500
            } else {
                10_000..15_000
            };
            assert!(expected.contains(&got), "{got} of 15,000 at its full share");
            site.run(600 * SECOND);
            let counts = site.in_flight();
            let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            assert!(spread <= 1, "{lives:?}: caught up: {counts:?}");
        }
    }
}

/// Each server has 400 connections, which last 20 s. Slow start takes 10 s.
#[test]
fn server_catches_up_within_1_5_times_its_share() {
    let (slow_start, lives) = (10 * SECOND, 20 * SECOND);
    let mut site = Site::with_slow_start(slow_start, Balance::LeastConn, &[1, 1, 1, 1], 80, lives);
    site.run(20 * SECOND);
    site.set("2", AdminState::Drain);
    site.run(20 * SECOND);
    site.set("2", AdminState::Ready);
    let mut counts = Vec::new();
    for second in 1..=40 {
        let got = site.run(SECOND);
        let total: u32 = got.iter().sum();
        // Because of rounding, the server may get one more connection.
        let most = 1.5 * f64::from(total) / 4.0 + 1.0;
        assert!(f64::from(got[2]) <= most, "second {second}: {got:?}");
        counts.push(site.in_flight()[2]);
    }
    assert!(counts[14] >= 240, "60 % after 15 s: {counts:?}");
    let even = site.in_flight();
    assert!(
        even.iter().all(|count| (399..=401).contains(count)),
        "{even:?}"
    );
}

/// Connections on the returning server end immediately, so it never has as many as the other
/// servers.
#[test]
fn limit_ends_without_enough_connections() {
    let mut site = Site::with_slow_start(SECOND, Balance::LeastConn, &[1, 1], 100, 600 * SECOND);
    site.set("1", AdminState::Maint);
    site.run(5 * SECOND);
    site.set("1", AdminState::Ready);
    let mut second = || {
        let got = site.run(SECOND);
        site.open
            .retain(|(_, lease)| lease.server().id().as_str() != "1");
        got[1]
    };
    let limited: Vec<u32> = (0..60).map(|_| second()).collect();
    assert!(limited.iter().all(|&got| got <= 72), "{limited:?}");
    second();
    assert_eq!(second(), 100);
}

#[test]
fn without_slow_start_an_empty_server_gets_all_arrivals() {
    // As a control, show that an empty server gets every new connection without slow start.
    let mut site = Site::with_slow_start(
        Duration::ZERO,
        Balance::LeastConn,
        &[1, 1, 1, 1],
        1_000,
        600 * SECOND,
    );
    site.set("2", AdminState::Maint);
    site.run(5 * SECOND);
    site.set("2", AdminState::Ready);
    let first = seconds(&mut site, 2, 1)[0];
    assert_eq!(first, (1_000, 1_000));
}

#[test]
fn ramp_scales_with_server_weight() {
    let mut site = Site::new(Balance::LeastConn, &[1, 1, 6], 1_000, 600 * SECOND);
    site.set("2", AdminState::Maint);
    site.run(5 * SECOND);
    site.set("2", AdminState::Ready);
    assert_ramp(&seconds(&mut site, 2, 120), 0.75);
}

#[test]
fn other_algorithms_ramp_by_weight() {
    for balance in [Balance::RoundRobin, Balance::Random, Balance::SourceHash] {
        let mut site = Site::new(balance, &[1, 1, 1, 1], 1_000, SECOND);
        site.set("2", AdminState::Maint);
        site.run(5 * SECOND);
        site.set("2", AdminState::Ready);
        let ramp = seconds(&mut site, 2, 60);
        // The other three servers have their full weight, so the share of the ramping server is w /
        // (3 + w).
        for (second, &(got, total)) in (1..).zip(&ramp) {
            let [least, most] = [second - 1, second].map(|at| {
                let weight = (f64::from(at) / 60.0).max(0.099);
                weight / (3.0 + weight)
            });
            let least =
                f64::from(total) * least - (at_most(total, least) - f64::from(total) * least);
            let most = at_most(total, most);
            let got = f64::from(got);
            assert!(
                least <= got && got <= most,
                "{balance:?} {second}: {least} {got} {most}"
            );
        }
        let after = site.run(10 * SECOND);
        assert!(
            f64::from(after[2]) <= at_most(10_000, 0.25),
            "{balance:?} {after:?}"
        );
        assert!(after[2] > 2_200, "{balance:?} {after:?}");
    }
}

#[test]
fn p2c_ramp_is_bounded() {
    let mut site = Site::new(Balance::P2c, &[1, 1, 1, 1], 1_000, 600 * SECOND);
    site.set("2", AdminState::Maint);
    site.run(5 * SECOND);
    site.set("2", AdminState::Ready);
    for (second, (got, total)) in (1..).zip(seconds(&mut site, 2, 60)) {
        let weight = (f64::from(second) / 60.0).max(0.1);
        // Two probabilities: that the server is drawn first, and that it is drawn first or, after
        // one of the three other servers, second.
        let first = weight / (3.0 + weight);
        let chance = first + (1.0 - first) * weight / (2.0 + weight);
        assert!(
            f64::from(got) <= at_most(total, chance),
            "second {second}: {got}"
        );
    }
}

/// All servers are idle, so their connection counts cannot limit the ramping server.
#[test]
fn ramp_applies_without_open_connections() {
    for balance in [Balance::LeastConn, Balance::P2c] {
        let mut site = Site::new(balance, &[1, 1, 1], 1_000, Duration::ZERO);
        site.set("2", AdminState::Maint);
        site.run(5 * SECOND);
        site.set("2", AdminState::Ready);
        let ramp = seconds(&mut site, 2, 60);
        let got = |seconds: &[(u32, u32)]| seconds.iter().map(|second| second.0).sum::<u32>();
        // The server gets first 10 %, then 50 % and finally 100 % of its share, which is a third.
        // With p2c, it gets slightly more.
        let (first, middle, last) = (got(&ramp[..6]), got(&ramp[27..33]), got(&ramp[54..]));
        assert!((150..350).contains(&first), "{balance:?}: {first}");
        assert!((850..1350).contains(&middle), "{balance:?}: {middle}");
        assert!((1700..2100).contains(&last), "{balance:?}: {last}");
    }
}

#[test]
fn simultaneous_slow_starts_share_evenly() {
    for balance in [
        Balance::LeastConn,
        Balance::P2c,
        Balance::RoundRobin,
        Balance::Random,
    ] {
        let mut site = Site::new(balance, &[1, 1, 1, 1], 1_000, 600 * SECOND);
        for server in ["0", "1", "2", "3"] {
            site.set(server, AdminState::Maint);
            site.set(server, AdminState::Ready);
        }
        for _ in 0..90 {
            let got = site.run(SECOND);
            let few = 250.0 - (at_most(1_000, 0.25) - 250.0);
            let in_bounds = |&count: &u32| (few..=at_most(1_000, 0.25)).contains(&count.into());
            assert!(got[..4].iter().all(in_bounds), "{balance:?}: {got:?}");
        }
    }
}

#[test]
fn newest_of_several_ramping_servers_is_bounded() {
    let mut site = Site::new(Balance::LeastConn, &[1, 1, 1, 1], 1_000, 600 * SECOND);
    for server in ["0", "1", "3"] {
        site.set(server, AdminState::Maint);
        site.set(server, AdminState::Ready);
    }
    site.set("2", AdminState::Maint);
    site.run(30 * SECOND);
    site.set("2", AdminState::Ready);
    for (second, (got, total)) in (31..60).zip(seconds(&mut site, 2, 29)) {
        let (own, other) = (
            (f64::from(second - 30) / 60.0).max(0.1),
            f64::from(second - 1) / 60.0,
        );
        let first = own / (3.0 * other + own);
        let chance = first + (1.0 - first) * own / (2.0 * other + own);
        assert!(
            f64::from(got) <= at_most(total, chance),
            "second {second}: {got}"
        );
    }
}

#[test]
fn joining_member_does_not_end_other_ramps() {
    // In Envoy issue 29008, a joining member ended the slow start of all members.
    let mut site = Site::new(Balance::LeastConn, &[1, 1, 1], 1_000, 600 * SECOND);
    site.set("2", AdminState::Maint);
    site.run(5 * SECOND);
    site.set("2", AdminState::Ready);
    assert_ramp(&seconds(&mut site, 2, 20), 1.0 / 3.0);
    let before = site.in_flight();
    let next = site.pool.successor().servers(specs(&[1, 1, 1, 1])).build();
    site.pool = next.unwrap();
    assert_eq!(
        site.pool.slow_start(),
        SLOW,
        "the successor keeps the duration by default"
    );
    assert_eq!(site.in_flight()[..3], before);
    for second in 1..=40 {
        let got = site.run(SECOND);
        let of = |server: usize, seconds| {
            let most = 250.0 * limit_after(seconds, true) + 3.0;
            assert!(f64::from(got[server]) <= most, "{second}: {got:?}");
        };
        of(3, second);
        of(2, second + 20);
    }
}

#[test]
fn initial_servers_skip_slow_start() {
    let mut site = Site::new(Balance::Random, &[1, 1, 1, 1], 1_000, SECOND);
    let got = site.run(SECOND);
    assert!(got[..4].iter().all(|&count| count > 180), "{got:?}");
}

#[test]
fn second_recovery_restarts_the_ramp() {
    let mut site = Site::new(Balance::LeastConn, &[1, 1, 1, 1], 1_000, 600 * SECOND);
    for _ in 0..3 {
        site.set("2", AdminState::Maint);
        site.run(5 * SECOND);
        site.set("2", AdminState::Ready);
        assert_ramp(&seconds(&mut site, 2, 30), 0.25);
    }
}

#[test]
fn slow_start_follows_completed_drain_only() {
    let mut site = Site::new(Balance::Random, &[1, 1], 1_000, 10 * SECOND);
    site.run(20 * SECOND);
    site.set("1", AdminState::Drain);
    site.run(SECOND);
    site.set("1", AdminState::Ready);
    assert!(site.run(SECOND)[1] > 400);
    site.set("1", AdminState::Drain);
    site.run(20 * SECOND);
    site.set("1", AdminState::Ready);
    assert!(site.run(SECOND)[1] < 150);
}

#[test]
fn slow_start_begins_with_the_first_pick() {
    let mut site = Site::new(Balance::Random, &[1, 1], 1_000, SECOND);
    site.run(SECOND);
    site.set("1", AdminState::Maint);
    site.set("1", AdminState::Ready);
    site.now += 10 * SLOW;
    assert!(
        site.run(SECOND)[1] < 150,
        "the ramp does not advance without connections"
    );
}

#[test]
fn enabling_slow_start_affects_new_servers_only() {
    let (balance, weights) = (Balance::Random, [1, 1]);
    let mut site = Site::with_slow_start(Duration::ZERO, balance, &weights, 1_000, SECOND);
    site.set("1", AdminState::Maint);
    site.set("1", AdminState::Ready);
    assert!(site.run(SECOND)[1] > 400);
    let next = site
        .pool
        .successor()
        .servers(specs(&[1, 1, 1]))
        .slow_start(SLOW)
        .build();
    site.pool = next.unwrap();
    let got = site.run(SECOND);
    assert!(got[1] > 350, "{got:?}");
    assert!(got[2] < 150, "the added server ramps: {got:?}");
}

#[test]
fn ramping_server_takes_all_without_alternatives() {
    let mut site = Site::new(Balance::LeastConn, &[1, 1], 1_000, 600 * SECOND);
    site.set("1", AdminState::Maint);
    site.run(SECOND);
    site.set("1", AdminState::Ready);
    site.set("0", AdminState::Drain);
    assert_eq!(site.run(SECOND)[..2], [0, 1_000]);
}

#[test]
fn slow_start_progress_is_read_without_side_effects() {
    let mut site = Site::new(Balance::LeastConn, &[1, 1], 10, SECOND);
    let seen = |site: &Site| {
        let server = site.pool.server("1").unwrap();
        let seen = site.pool.slow_start_of(&server, site.now)?;
        Some((seen.share, seen.remaining))
    };
    site.run(SECOND);
    assert_eq!(seen(&site), None, "initial server");
    site.set("1", AdminState::Maint);
    site.run(SECOND);
    assert_eq!(seen(&site), None, "in maintenance");

    // The ramp starts at the first pick. Reading the progress does not start it.
    site.set("1", AdminState::Ready);
    let tenth = 102.0 / 1024.0;
    assert_eq!(seen(&site), Some((tenth, SLOW)));
    site.now += 100 * SECOND;
    assert_eq!(seen(&site), Some((tenth, SLOW)));
    let began = site.now;
    site.run(SECOND);
    for (passed, share) in [(15, 0.25), (30, 0.5), (45, 0.75)] {
        site.now = began + passed * SECOND;
        assert_eq!(seen(&site), Some((share, SLOW - passed * SECOND)));
    }
    site.set("1", AdminState::Drain);
    assert_eq!(seen(&site), None, "draining");
    site.set("1", AdminState::Ready);
    site.now = began + SLOW;
    assert_eq!(seen(&site), None, "ramp complete");

    site.set("1", AdminState::Maint);
    site.set("1", AdminState::Ready);
    assert_eq!(seen(&site), Some((tenth, SLOW)), "ramp restarted");
    site.pool = site
        .pool
        .successor()
        .slow_start(Duration::ZERO)
        .build()
        .unwrap();
    assert_eq!(seen(&site), None);
}
