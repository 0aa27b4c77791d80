//! Fixed workloads for counting instructions. `scripts/instructions.py` runs each workload with two
//! different iteration counts and takes the difference, so that startup is not counted.

mod support;

use std::process::ExitCode;

use leastconn::Tried;
use support::NOW;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(what), Some(Ok(count))) = (args.next(), args.next().map(|n| n.parse())) else {
        // `cargo bench` runs every benchmark with arguments of its own. In that case, only print a
        // hint.
        eprintln!("instructions: counted by scripts/instructions.py");
        return ExitCode::SUCCESS;
    };
    match what.as_str() {
        "pick-4" => pick(4, count),
        "pick-64" => pick(64, count),
        "pick-1000" => pick(1000, count),
        "admit" => admit(count),
        "echo" => support::runtime().block_on(support::carry(count, 0)),
        "mebibyte" => support::runtime().block_on(support::carry(0, count << 20)),
        other => {
            eprintln!("instructions: unknown workload `{other}`");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn pick(servers: u16, count: usize) {
    let (pool, _held) = support::busy(servers);
    let (all, tried) = (pool.all(), Tried::default());
    for _ in 0..count {
        drop(pool.pick(&all, &tried, *NOW));
    }
}

fn admit(count: usize) {
    let (limiter, clients, limits) = support::limiter(1_000);
    for number in 0..count {
        drop(limiter.admit(&clients[number % clients.len()], &limits, *NOW));
    }
}
