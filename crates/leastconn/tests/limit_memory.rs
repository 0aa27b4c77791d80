//! A million identities stay within a byte budget, and none is left once idle.
//!
//! Alone in its file: the allocator counts for the whole process.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use leastconn::{ClientId, Limiter, Limits, RateLimit};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// A quarter of them in a debug build, which takes a second for a hundred thousand: the
/// tables are then as full as those of all, and grow in the same steps.
const IDENTITIES: usize = if cfg!(debug_assertions) {
    250_000
} else {
    1_000_000
};
/// For each, its name of 40 bytes included.
const BUDGET: usize = 256;

fn identity(number: usize) -> ClientId {
    format!("spiffe://example.org/ns/web/client-{number:07}").into()
}

#[test]
fn million_identities_fit_and_expire() {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to an Instant; only differences matter"
    )]
    let epoch = Instant::now();
    let limits = Limits::default()
        .rate(RateLimit::new(1.0, NonZeroU32::MIN))
        .max_conns(NonZeroU32::new(1));
    let before = ALLOCATED.current_usage();
    // A shard is full by chance before the table is: leave it some room.
    let limiter = Limiter::new(IDENTITIES * 11 / 10, epoch);
    for number in 0..IDENTITIES {
        assert!(limiter.admit(&identity(number), &limits, epoch).is_ok());
        // On the way, too: a table is at its emptiest just after it has grown.
        if number > IDENTITIES / 2 && number % 1_000 == 0 {
            let each = (ALLOCATED.current_usage() - before) / number;
            assert!(each <= BUDGET, "{each} bytes for each of {number}");
        }
    }
    assert_eq!(limiter.len(), IDENTITIES);

    // A flood of more has to stay outside.
    for number in IDENTITIES..IDENTITIES * 13 / 10 {
        let _ = limiter.admit(&identity(number), &limits, epoch);
    }
    assert!(limiter.len() <= IDENTITIES * 11 / 10 + 64);

    limiter.forget_idle(epoch + Duration::from_secs(1));
    assert!(limiter.is_empty());
    let left = ALLOCATED.current_usage() - before;
    assert!(left <= 16 * 1024, "{left} bytes are left of nobody");
}
