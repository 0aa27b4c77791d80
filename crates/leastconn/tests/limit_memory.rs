//! Tests that a million identities stay within a memory budget and are released once idle.
//!
//! The test has its own binary, because the allocator counts the memory of the whole process.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use leastconn::{ClientId, Limiter, Limits, RateLimit};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Number of identities. Debug builds use only a quarter, because they need a second for 100,000
/// identities. The tables grow in the same steps and reach the same load factor.
const IDENTITIES: usize = if cfg!(debug_assertions) {
    250_000
} else {
    1_000_000
};
/// Maximum memory per identity in bytes, including its name of 40 bytes.
const BUDGET: usize = 256;

fn identity(number: usize) -> ClientId {
    format!("spiffe://example.org/ns/web/client-{number:07}").into()
}

#[test]
fn million_identities_fit_and_expire() {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant cannot be constructed otherwise; only differences are used"
    )]
    let epoch = Instant::now();
    let limits = Limits::default()
        .rate(RateLimit::new(1.0, NonZeroU32::MIN))
        .max_conns(NonZeroU32::new(1));
    let before = ALLOCATED.current_usage();
    // Shards fill unevenly, so provide some spare capacity.
    let limiter = Limiter::new(IDENTITIES * 11 / 10, epoch);
    for number in 0..IDENTITIES {
        assert!(limiter.admit(&identity(number), &limits, epoch).is_ok());
        // Also check while the table is growing: the overhead is highest just after it has grown.
        if number > IDENTITIES / 2 && number % 1_000 == 0 {
            let each = (ALLOCATED.current_usage() - before) / number;
            assert!(each <= BUDGET, "{each} bytes for each of {number}");
        }
    }
    assert_eq!(limiter.len(), IDENTITIES);

    // Once the table has reached its capacity, further identities do not make it grow.
    for number in IDENTITIES..IDENTITIES * 13 / 10 {
        let _ = limiter.admit(&identity(number), &limits, epoch);
    }
    assert!(limiter.len() <= IDENTITIES * 11 / 10 + 64);

    limiter.forget_idle(epoch + Duration::from_secs(1));
    assert!(limiter.is_empty());
    let left = ALLOCATED.current_usage() - before;
    assert!(left <= 16 * 1024, "{left} bytes are left after expiry");
}
