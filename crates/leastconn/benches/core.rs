//! What a connection costs in the core: `cargo bench -p leastconn`.

use std::{net::SocketAddr, num::NonZeroU32, sync::LazyLock, time::Instant};

use divan::{Bencher, black_box};
use leastconn::{
    ClientId, Lease, Limiter, Limits, Pool, RateLimit, ServerSpec, Tried, health::PassivePolicy,
};

fn main() {
    divan::main();
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to an Instant; nothing here takes time"
)]
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

#[expect(clippy::expect_used, reason = "a benchmark may stop")]
fn pool(servers: u16) -> Pool {
    let specs = (0..servers).map(|number| {
        let address = SocketAddr::from(([127, 0, 0, 1], number));
        ServerSpec::new(number.to_string(), address)
    });
    Pool::new("pool", specs, None, PassivePolicy::default(), 1)
        .expect("there are servers, and their names differ")
}

/// A pool with some connections on each server, as it is in the middle of a day.
fn busy(servers: u16) -> (Pool, Vec<Option<Lease>>) {
    let pool = pool(servers);
    let held = (0..10 * u32::from(servers) + 1)
        .map(|_| pool.pick(&pool.all(), &Tried::default(), *NOW))
        .collect();
    (pool, held)
}

/// Picking and dropping the lease. The threads of the second row contend for
/// the same servers.
#[divan::bench(args = [4, 64, 1000], threads = [1, 2])]
fn pick_and_drop(bencher: Bencher<'_, '_>, servers: u16) {
    let (pool, _held) = busy(servers);
    let (all, tried) = (pool.all(), Tried::default());
    bencher.bench(|| drop(pool.pick(black_box(&all), &tried, *NOW)));
}

/// Admitting one of so many identities, and dropping the permit.
#[divan::bench(args = [1, 100_000], threads = [1, 2])]
fn admit_and_drop(bencher: Bencher<'_, '_>, identities: usize) {
    let limiter = Limiter::new(2 * identities, *NOW);
    // Never refused: a refusal is not what is measured.
    let limits = Limits {
        rate: RateLimit::new(1e9, NonZeroU32::MAX),
        max_conns: NonZeroU32::new(u32::MAX),
    };
    let clients: Vec<ClientId> = (0..identities)
        .map(|number| format!("spiffe://example.org/ns/web/client-{number:07}").into())
        .collect();
    for client in &clients {
        drop(limiter.admit(client, &limits, *NOW));
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    bencher.bench(|| {
        // A stride, so that no cache line is warm from the one before.
        let number = next.fetch_add(7_919, std::sync::atomic::Ordering::Relaxed);
        drop(limiter.admit(black_box(&clients[number % identities]), &limits, *NOW));
    });
}
