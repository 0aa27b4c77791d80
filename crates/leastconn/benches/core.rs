//! Per-connection cost of picking a server and of admitting a client: `cargo bench -p leastconn`.

mod support;

use divan::{Bencher, black_box};
use leastconn::Tried;
use support::{NOW, busy};

fn main() {
    divan::main();
}

/// Picks a server and drops the lease. With two threads, both pick from the same servers.
#[divan::bench(args = [4, 64, 1000], threads = [1, 2])]
fn pick_and_drop(bencher: Bencher<'_, '_>, servers: u16) {
    let (pool, _held) = busy(servers);
    let (all, tried) = (pool.all(), Tried::default());
    bencher.bench(|| drop(pool.pick(black_box(&all), &tried, *NOW)));
}

/// Admits one of `identities` clients and drops the permit.
#[divan::bench(args = [1, 100_000], threads = [1, 2])]
fn admit_and_drop(bencher: Bencher<'_, '_>, identities: usize) {
    let (limiter, clients, limits) = support::limiter(identities);
    let next = std::sync::atomic::AtomicUsize::new(0);
    bencher.bench(|| {
        // Jump to a distant client each time, so that the iteration does not reuse the previous
        // client's cache lines.
        let number = next.fetch_add(7_919, std::sync::atomic::Ordering::Relaxed);
        drop(limiter.admit(black_box(&clients[number % identities]), &limits, *NOW));
    });
}
