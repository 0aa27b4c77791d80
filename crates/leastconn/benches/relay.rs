//! What relaying costs without a network: `cargo bench -p leastconn --bench relay`.
//! The figures include the client and the server, which are as small as they can be.

mod support;

use divan::{Bencher, counter::BytesCount};

fn main() {
    divan::main();
}

/// A connection of its own that carries so many echoes of 64 bytes.
#[divan::bench(args = [0, 1, 1000])]
fn echoes(bencher: Bencher<'_, '_>, count: usize) {
    let runtime = support::runtime();
    bencher.bench_local(|| runtime.block_on(support::carry(count, 0)));
}

/// A connection of its own that carries a stream.
#[divan::bench(args = [1, 16])]
fn stream(bencher: Bencher<'_, '_>, mib: usize) {
    let runtime = support::runtime();
    bencher
        .counter(BytesCount::new(mib << 20))
        .bench_local(|| runtime.block_on(support::carry(0, mib << 20)));
}
