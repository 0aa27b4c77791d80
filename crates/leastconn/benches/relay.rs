//! Cost of relaying, measured without a network: `cargo bench -p leastconn --bench relay`. The
//! results include the cost of a minimal client and server.

mod support;

use divan::{Bencher, counter::BytesCount};

fn main() {
    divan::main();
}

/// Opens a connection and exchanges `count` messages of 64 bytes in each direction.
#[divan::bench(args = [0, 1, 1000])]
fn echoes(bencher: Bencher<'_, '_>, count: usize) {
    let runtime = support::runtime();
    bencher.bench_local(|| runtime.block_on(support::carry(count, 0)));
}

/// Opens a connection and transfers `mib` MiB from the server to the client.
#[divan::bench(args = [1, 16])]
fn stream(bencher: Bencher<'_, '_>, mib: usize) {
    let runtime = support::runtime();
    bencher
        .counter(BytesCount::new(mib << 20))
        .bench_local(|| runtime.block_on(support::carry(0, mib << 20)));
}
