use std::sync::LazyLock;

use proptest::prelude::*;

use super::{rate::Bucket, *};

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise"
)]
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

fn at(nanos: u64) -> Instant {
    *EPOCH + Duration::from_nanos(nanos)
}

fn limiter(capacity: usize) -> Limiter {
    Limiter::new(capacity, *EPOCH)
}

fn rate(per_second: f64, burst: u32) -> Limits {
    Limits {
        rate: RateLimit::new(per_second, NonZeroU32::new(burst).unwrap()),
        max_conns: None,
    }
}

fn at_once(max_conns: u32) -> Limits {
    Limits {
        rate: None,
        max_conns: NonZeroU32::new(max_conns),
    }
}

#[test]
fn burst_is_followed_by_the_rate() {
    let limiter = limiter(10);
    let client = "alice".into();
    let limits = rate(10.0, 3);
    let admitted = |nanos| limiter.admit(&client, &limits, at(nanos)).is_ok();
    assert_eq!([0, 0, 0, 0].map(admitted), [true, true, true, false]);
    assert_eq!(
        [SECOND / 10 - 1, SECOND / 10, SECOND / 10].map(admitted),
        [false, true, false]
    );
    // After a long idle period, only one burst is available.
    assert_eq!([DAY; 4].map(admitted), [true, true, true, false]);
}

/// Row 41 of docs/threats.md: callers on several threads can read the clock in another order than
/// they are admitted in.
#[test]
fn earlier_time_adds_no_tokens() {
    let limiter = limiter(10);
    let client = "alice".into();
    let limits = rate(1.0, 2);
    let admitted = |second: u64| limiter.admit(&client, &limits, at(second * SECOND)).is_ok();
    assert_eq!([100, 100, 100].map(admitted), [true, true, false]);
    assert_eq!([99, 50, 0].map(admitted), [false; 3]);
    // The refused attempts at earlier times have changed nothing.
    assert_eq!([100, 101, 101].map(admitted), [false, true, false]);
}

#[test]
fn whole_rates_are_exact_every_second() {
    let limiter = limiter(10);
    let client = "alice".into();
    for per_second in [3.0, 7.0, 300.0] {
        let limits = rate(per_second, per_second as u32);
        for second in 100..200 {
            let admitted = (0..1_000)
                .filter(|_| limiter.admit(&client, &limits, at(second * SECOND)).is_ok())
                .count();
            assert_eq!(admitted, per_second as usize, "in second {second}");
        }
        limiter.forget_idle(at(DAY));
    }
}

#[test]
fn raised_rate_applies_immediately() {
    let limiter = limiter(10);
    let client = "alice".into();
    let hourly = rate(1.0 / 3600.0, 5);
    for _ in 0..5 {
        let _ = limiter.admit(&client, &hourly, at(0)).unwrap();
    }
    assert!(limiter.admit(&client, &hourly, at(SECOND)).is_err());
    let raised = rate(100.0, 5);
    assert_eq!(
        limiter.admit(&client, &raised, at(SECOND)).unwrap_err(),
        Refusal::RateLimited {
            // After one second, 1/3600 of a token has been restored.
            retry_after: Duration::from_nanos(9_997_223)
        }
    );
    assert!(
        limiter
            .admit(&client, &raised, at(SECOND + SECOND / 100))
            .is_ok()
    );
}

#[test]
fn rates_out_of_range_are_rejected() {
    for per_second in [0.0, -1.0, 1e-7, 2e9, f64::NAN, f64::INFINITY] {
        assert_eq!(RateLimit::new(per_second, NonZeroU32::MIN), None);
    }
    for per_second in [1e-6, 0.3, 1.0, 3.0, 12_345_678.0, 999_999_937.0, 1e9] {
        let limit = RateLimit::new(per_second, NonZeroU32::MIN).unwrap();
        assert_eq!(limit.per_second(), per_second);
    }
}

#[test]
fn extreme_rate_and_burst_do_not_overflow() {
    let mut bucket = Bucket::default();
    let limit = RateLimit::new(1e-6, NonZeroU32::MAX).unwrap();
    for _ in 0..1_000_000 {
        bucket.take(&limit, u64::MAX).unwrap();
    }
    let tight = RateLimit::new(1e-6, NonZeroU32::MIN).unwrap();
    // 1e12 seconds, expressed in nanoseconds, exceed 64 bits.
    assert_eq!(
        bucket.take(&tight, u64::MAX),
        Err(Duration::from_nanos(u64::MAX))
    );
}

#[test]
fn connection_counts_until_permit_is_dropped() {
    let limiter = limiter(10);
    let client = "alice".into();
    let limits = at_once(2);
    let first = limiter.admit(&client, &limits, at(0)).unwrap();
    let _second = limiter.admit(&client, &limits, at(0)).unwrap();
    let refused = limiter.admit(&client, &limits, at(0)).unwrap_err();
    assert_eq!(refused, Refusal::TooManyConnections);
    assert_eq!(limiter.open(&client), 2);
    drop(first);
    assert_eq!(limiter.open(&client), 1);
    assert!(limiter.admit(&client, &limits, at(0)).is_ok());
}

#[test]
fn refusal_by_max_conns_uses_no_tokens() {
    let limiter = limiter(10);
    let client = "alice".into();
    let limits = Limits {
        max_conns: NonZeroU32::new(1),
        ..rate(1.0, 2)
    };
    let held = limiter.admit(&client, &limits, at(0)).unwrap();
    for _ in 0..10 {
        assert!(limiter.admit(&client, &limits, at(0)).is_err());
    }
    drop(held);
    assert!(limiter.admit(&client, &limits, at(0)).is_ok());
}

#[test]
fn full_table_refuses_only_unknown_clients() {
    let limiter = limiter(3);
    let limits = rate(1.0, 2);
    let clients: Vec<ClientId> = ["a", "b", "c"].map(ClientId::from).into();
    for client in &clients {
        assert!(limiter.admit(client, &limits, at(0)).is_ok());
    }
    let unknown = "d".into();
    let refused = limiter.admit(&unknown, &limits, at(0)).unwrap_err();
    assert_eq!(refused, Refusal::TableFull);
    for client in &clients {
        assert!(limiter.admit(client, &limits, at(1)).is_ok());
    }
    // Each client has used two tokens and is idle after two seconds. `admit` then forgets the idle
    // clients.
    assert!(limiter.admit(&unknown, &limits, at(SECOND)).is_err());
    assert!(limiter.admit(&unknown, &limits, at(2 * SECOND + 1)).is_ok());
    assert_eq!(limiter.len(), 1);
}

#[test]
fn forgetful_limiter_evicts_fullest_bucket_first() {
    let limiter = Limiter::forgetful(3, *EPOCH);
    let limits = rate(1.0, 5);
    for (client, connections) in [("a", 3), ("b", 1), ("c", 2)] {
        for _ in 0..connections {
            assert!(limiter.admit(&client.into(), &limits, at(0)).is_ok());
        }
    }
    let held = limiter.admit(&"d".into(), &limits, at(0)).unwrap();
    assert_eq!(limiter.len(), 3);
    assert!(limiter.admit(&"e".into(), &limits, at(0)).is_ok());
    // `a` has used most of its burst (3 of 5), so it was not forgotten.
    assert!(limiter.admit(&"a".into(), &limits, at(0)).is_ok());
    assert!(limiter.admit(&"a".into(), &limits, at(0)).is_ok());
    assert!(limiter.admit(&"a".into(), &limits, at(0)).is_err());
    assert_eq!(limiter.open(&"d".into()), 1);
    drop(held);
}

#[test]
fn forgetful_limiter_keeps_connected_clients() {
    let limiter = Limiter::forgetful(2_000, *EPOCH);
    let limits = rate(1.0, 1);
    let held: Vec<_> = (0..500)
        .map(|n| {
            limiter
                .admit(&format!("held {n}").into(), &limits, at(0))
                .unwrap()
        })
        .collect();
    for n in 0..20_000 {
        assert!(
            limiter
                .admit(&format!("unknown {n}").into(), &limits, at(0))
                .is_ok()
        );
        assert!(limiter.len() <= 2_064, "{}", limiter.len());
    }
    for n in 0..500 {
        assert_eq!(limiter.open(&format!("held {n}").into()), 1);
    }
    drop(held);
    // Clients with open connections may exceed the capacity until they disconnect.
    let limiter = Limiter::forgetful(10, *EPOCH);
    let held: Vec<_> = (0..100)
        .map(|n| {
            limiter
                .admit(&format!("held {n}").into(), &limits, at(0))
                .unwrap()
        })
        .collect();
    assert_eq!(limiter.len(), 100);
    drop(held);
    assert!(
        limiter
            .admit(&"one more".into(), &limits, at(SECOND / 2))
            .is_ok()
    );
    assert!(limiter.len() <= 11, "{}", limiter.len());
}

#[test]
fn unknown_clients_do_not_grow_full_table() {
    let capacity = 10_000;
    let limiter = limiter(capacity);
    let limits = rate(1.0, 1);
    let mut admitted = 0;
    for unknown in 0..3 * capacity as u64 {
        let client = format!("unknown {unknown}").into();
        admitted += usize::from(limiter.admit(&client, &limits, at(unknown)).is_ok());
    }
    assert_eq!(admitted, limiter.len());
    assert!((capacity..capacity + 64).contains(&limiter.len()));
    limiter.forget_idle(at(DAY));
    assert!(limiter.is_empty());
}

#[test]
fn clients_in_use_are_not_forgotten() {
    let limiter = limiter(1_000);
    let limits = rate(1.0, 3);
    let client: ClientId = "alice".into();
    let held = limiter.admit(&client, &limits, at(0)).unwrap();
    limiter.forget_idle(at(DAY));
    assert_eq!(
        limiter.len(),
        1,
        "the remaining client has an open connection"
    );
    drop(held);
    assert!(limiter.admit(&client, &limits, at(DAY)).is_ok());
    limiter.forget_idle(at(DAY + SECOND - 1));
    assert_eq!(
        limiter.len(),
        1,
        "the bucket of the remaining client is not full"
    );
    limiter.forget_idle(at(DAY + SECOND));
    assert!(limiter.is_empty());
}

/// Rates for the property tests, as fractions.
const RATES: [(u64, u64); 8] = [
    (3, 1),
    (7, 1),
    (3, 10),
    (1, 8_000),
    (99_991, 1),
    (300_000, 1),
    (999_999_937, 1),
    (1, 1_000_000),
];

fn rate_limit((numerator, denominator): (u64, u64), burst: u32) -> RateLimit {
    let per_second = numerator as f64 / denominator as f64;
    RateLimit::new(per_second, NonZeroU32::new(burst).unwrap()).unwrap()
}

/// A reference implementation of GCRA that uses the theoretical arrival time, as in the standard.
/// Times are exact multiples of `1 / numerator` nanoseconds.
struct Gcra {
    numerator: u128,
    /// Emission interval: the time between two conforming connections.
    interval: u128,
    burst: u128,
    tat: u128,
}

impl Gcra {
    fn new((numerator, denominator): (u64, u64), burst: u32) -> Self {
        Self {
            numerator: numerator.into(),
            interval: u128::from(denominator) * u128::from(SECOND),
            burst: burst.into(),
            tat: 0,
        }
    }

    fn admit(&mut self, now: u64) -> Result<(), Duration> {
        let now = u128::from(now) * self.numerator;
        let tat = self.tat.max(now);
        let early = (tat - now).saturating_sub((self.burst - 1) * self.interval);
        if early > 0 {
            return Err(Duration::from_nanos(early.div_ceil(self.numerator) as u64));
        }
        self.tat = tat + self.interval;
        Ok(())
    }

    /// Whether `n + spare` connections are at most `burst + rate * t`.
    fn allows(&self, n: usize, t: u64, spare: u128) -> bool {
        (n as u128 + spare) * self.interval
            <= self.burst * self.interval + u128::from(t) * self.numerator
    }
}

proptest! {
    #[test]
    fn decisions_match_exact_gcra(
        fraction in prop::sample::select(&RATES[..]), burst in 1u32..20,
        attempts in prop::collection::vec((0u64..4, 0u64..1_000, -1i64..2), 1..200),
    ) {
        let limiter = limiter(1);
        let client = "alice".into();
        let limits = Limits { rate: Some(rate_limit(fraction, burst)), max_conns: None };
        let interval = fraction.1 * SECOND / fraction.0;
        let mut gcra = Gcra::new(fraction, burst);
        let mut admitted = Vec::new();
        let mut now = 0u64;
        for (whole, thousandths, nanos) in attempts {
            // Most connections arrive simultaneously or close to a multiple of the emission
            // interval. A few arrive a day later.
            now += match (whole, thousandths) {
                (0, 990..) => DAY,
                (0, _) => 0,
                (1, _) => interval * thousandths / 1_000,
                _ => (interval * (whole - 1)).saturating_add_signed(nanos),
            };
            let expected = gcra.admit(now);
            let got = limiter.admit(&client, &limits, at(now)).map(drop);
            prop_assert_eq!(got, expected.map_err(|retry_after| Refusal::RateLimited { retry_after }));
            if expected.is_ok() {
                admitted.push(now);
            }
        }
        for (i, from) in admitted.iter().enumerate() {
            for (n, until) in admitted[i..].iter().enumerate() {
                prop_assert!(gcra.allows(n + 1, until - from, 0), "{} within {} ns", n + 1, until - from);
            }
        }
    }

    #[test]
    fn retry_after_is_exact(
        fraction in prop::sample::select(&RATES[..]), burst in 1u32..20, start in 0u64..10 * DAY,
    ) {
        let limit = rate_limit(fraction, burst);
        let mut bucket = Bucket::default();
        for _ in 0..burst {
            bucket.take(&limit, start).unwrap();
        }
        let wait = bucket.take(&limit, start).unwrap_err().as_nanos() as u64;
        prop_assert_eq!(bucket.take(&limit, start + wait - 1), Err(Duration::from_nanos(1)));
        prop_assert_eq!(bucket.take(&limit, start + wait), Ok(()));
    }
}

#[test]
fn long_term_rate_is_exact() {
    for fraction in RATES {
        let burst = 5;
        let limit = rate_limit(fraction, burst);
        let gcra = Gcra::new(fraction, burst);
        let mut bucket = Bucket::default();
        let start = 30 * DAY;
        let mut now = start;
        let mut admitted = 0;
        // Simulate up to a million connections or 550 years.
        while admitted < 1_000_000 && now < 200_000 * DAY {
            match bucket.take(&limit, now) {
                Ok(()) => {
                    admitted += 1;
                    assert!(
                        gcra.allows(admitted, now - start, 0),
                        "{admitted} of {fraction:?}"
                    );
                }
                Err(wait) => {
                    now += wait.as_nanos() as u64;
                    // One nanosecond earlier, this connection would have exceeded the limit.
                    let before = now - start - 1;
                    assert!(
                        !gcra.allows(admitted, before, 1),
                        "{admitted} of {fraction:?} in {before} ns"
                    );
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    elapsed: u64,
    client: usize,
    limits: usize,
    keep: bool,
    /// Whether to drop the oldest permit.
    close: bool,
    forget: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let elapsed = prop_oneof![Just(0), 0..SECOND, 0..10 * SECOND];
    let bools = (any::<bool>(), any::<bool>(), any::<bool>());
    (elapsed, 0usize..3, 0usize..4, bools).prop_map(
        |(elapsed, client, limits, (keep, close, forget))| Step {
            elapsed,
            client,
            limits,
            keep,
            close,
            forget,
        },
    )
}

fn clients() -> [ClientId; 3] {
    ["a", "b", "c"].map(ClientId::from)
}

/// The property tests switch clients between these limits, as a reload does.
fn some_limits() -> [Limits; 4] {
    let both = Limits {
        max_conns: NonZeroU32::new(2),
        ..rate(3.0, 4)
    };
    [rate(0.3, 2), both, at_once(3), Limits::default()]
}

proptest! {
    #[test]
    fn forgetting_does_not_change_decisions(steps in prop::collection::vec(step(), 1..200)) {
        let (remembers, forgets) = (limiter(100), limiter(100));
        let mut held = std::collections::VecDeque::new();
        let mut now = 0;
        for step in steps {
            now += step.elapsed;
            if step.forget {
                forgets.forget_idle(at(now));
            }
            if step.close {
                held.pop_front();
            }
            let client = &clients()[step.client];
            let limits = &some_limits()[step.limits];
            let one = remembers.admit(client, limits, at(now));
            let other = forgets.admit(client, limits, at(now));
            prop_assert_eq!(one.as_ref().err(), other.as_ref().err());
            if step.keep {
                held.push_back((one.ok(), other.ok()));
            }
        }
    }

    #[test]
    fn refused_attempts_use_no_tokens(
        attempts in prop::collection::vec((0..SECOND, 0usize..3), 1..200),
    ) {
        let (asked, spared) = (limiter(100), limiter(100));
        let mut now = 0;
        for (elapsed, client) in attempts {
            now += elapsed;
            let limits = &some_limits()[client];
            let client = &clients()[client];
            if asked.admit(client, limits, at(now)).is_ok() {
                prop_assert!(spared.admit(client, limits, at(now)).is_ok());
            }
        }
    }

    #[test]
    fn permits_are_counted_exactly(
        max in 1u32..5,
        steps in prop::collection::vec((0usize..3, any::<Option<prop::sample::Index>>()), 1..200),
    ) {
        let limiter = limiter(100);
        let limits = at_once(max);
        let mut held: [Vec<Permit>; 3] = Default::default();
        for (client, drop_one) in steps {
            let (id, held) = (&clients()[client], &mut held[client]);
            match drop_one {
                Some(which) if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                Some(_) => {}
                None => match limiter.admit(id, &limits, at(0)) {
                    Ok(permit) => held.push(permit),
                    Err(refusal) => {
                        prop_assert_eq!(refusal, Refusal::TooManyConnections);
                        prop_assert_eq!(held.len(), max as usize);
                    }
                },
            }
            prop_assert!(held.len() <= max as usize);
            prop_assert_eq!(limiter.open(id), held.len() as u64);
        }
    }
}
