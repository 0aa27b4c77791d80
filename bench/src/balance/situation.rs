//! The situations.

use std::{future::Future, io, path::PathBuf, pin::Pin, rc::Rc, time::Duration};

use leastconn_sim::{
    site::Watched,
    workload::{Hold, Process, Workload},
};
use tokio::time::{Instant, sleep};

use super::{
    client::{Clients, Tally},
    config::{Check, Settings},
    process::Balancer,
    server::{Behaviour, Servers},
};
use crate::compare::program::Program;

/// A situation, and the values that are measured.
pub(super) struct Situation {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    /// Names of the values that `run` returns, with their targets.
    pub(super) values: &'static [(&'static str, &'static str)],
    pub(super) run: fn(Rc<Environment>) -> Running,
}

pub(super) type Running = Pin<Box<dyn Future<Output = io::Result<Vec<f64>>>>>;

/// The inputs for running a situation with one balancer.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) program: Program,
    pub(super) directory: PathBuf,
    pub(super) seed: u64,
}

pub(super) const SITUATIONS: [Situation; 8] = [
    Situation {
        name: "steady",
        summary: "8 servers, 200 connections per second at random times, exponential duration, mean 2 s",
        values: &[("peak/mean", "best peer + 0.005")],
        run: |environment| Box::pin(steady(environment)),
    },
    Situation {
        name: "closes",
        summary: "one of 4 servers accepts connections and closes them immediately, after the first second",
        values: &[("clients that it gets %", "5")],
        run: |environment| Box::pin(failing(environment, Behaviour::Close, None)),
    },
    Situation {
        name: "closes-checked",
        summary: "the same, with TCP checks every second",
        values: &[("clients that it gets %", "5")],
        run: |environment| Box::pin(failing(environment, Behaviour::Close, Some(Check::Tcp))),
    },
    Situation {
        name: "resets",
        summary: "one of 4 servers accepts connections and resets them immediately, after the first second",
        values: &[("clients that it gets %", "2")],
        run: |environment| Box::pin(failing(environment, Behaviour::Reset, None)),
    },
    Situation {
        name: "full",
        summary: "100 simultaneous clients on 4 servers with at most 20 connections each, duration 1 s",
        values: &[
            ("refused", "0"),
            ("most on a server", "20"),
            ("longest wait s", "1.2"),
        ],
        run: |environment| Box::pin(full(environment)),
    },
    Situation {
        name: "restart",
        summary: "one of 4 servers with 400 connections each restarts; TCP checks every second, slow start 10 s",
        values: &[
            ("peak rate × fair", "1.5"),
            ("share after 15 s %", "60"),
            ("failed clients", "0"),
        ],
        run: |environment| Box::pin(restart(environment)),
    },
    Situation {
        name: "balancers",
        summary: "three balancers with their own counts, 8 servers, 48 connections",
        values: &[("peak/mean", "nginx")],
        run: |environment| Box::pin(balancers(environment)),
    },
    Situation {
        name: "frozen",
        summary: "one of 4 servers stops answering; 150 connections per second; checks that expect an answer every second",
        values: &[("clients that time out", "10"), ("clients", "")],
        run: |environment| Box::pin(frozen(environment)),
    },
];

const SECOND: Duration = Duration::from_secs(1);
const CLIENTS: Clients = Clients {
    answer_timeout: Duration::from_secs(6),
    warm_up: Duration::ZERO,
};

fn poisson(rate: f64, hold: Hold) -> Workload {
    Workload {
        initial: 0,
        process: Some(Process::Poisson { rate }),
        hold,
        sources: 1,
    }
}

impl Environment {
    async fn start(&self, settings: Settings) -> io::Result<Balancer> {
        Balancer::start(&self.program, &settings, &self.directory).await
    }
}

async fn steady(environment: Rc<Environment>) -> io::Result<Vec<f64>> {
    let servers = Servers::start(8).await?;
    let balancer = environment
        .start(Settings {
            servers: servers.addresses(),
            ..Settings::default()
        })
        .await?;
    let workload = poisson(200.0, Hold::Exponential(2 * SECOND));
    servers.measure(8 * SECOND, None);
    CLIENTS.start(
        workload.arrivals(18 * SECOND, 1, environment.seed),
        vec![balancer.address],
    );
    sleep(18 * SECOND).await;
    Ok(vec![servers.finish().peak_to_mean])
}

/// One of four servers fails. A client without an answer must have been sent to the failed server.
async fn failing(
    environment: Rc<Environment>,
    behaviour: Behaviour,
    check: Option<Check>,
) -> io::Result<Vec<f64>> {
    let servers = Servers::start(4).await?;
    let balancer = environment
        .start(Settings {
            servers: servers.addresses(),
            check,
            ..Settings::default()
        })
        .await?;
    servers.set(0, behaviour);
    let clients = Clients {
        warm_up: SECOND,
        ..CLIENTS
    };
    let workload = poisson(100.0, Hold::Fixed(SECOND));
    let tally = clients.start(
        workload.arrivals(11 * SECOND, 1, environment.seed),
        vec![balancer.address],
    );
    sleep(12 * SECOND).await;
    let tally = *tally.borrow();
    Ok(vec![percent(tally.failed, tally.clients())])
}

async fn full(environment: Rc<Environment>) -> io::Result<Vec<f64>> {
    let servers = Servers::start(4).await?;
    let balancer = environment
        .start(Settings {
            servers: servers.addresses(),
            max_conns: Some(20),
            ..Settings::default()
        })
        .await?;
    // Wait until the connection that tested whether the balancer relays has ended.
    wait_until(|| servers.open() == 0).await?;
    let workload = Workload {
        initial: 100,
        process: None,
        hold: Hold::Fixed(SECOND),
        sources: 1,
    };
    servers.measure(Duration::ZERO, None);
    let tally = CLIENTS.start(
        workload.arrivals(SECOND, 1, environment.seed),
        vec![balancer.address],
    );
    wait_until(|| tally.borrow().clients() == 100).await?;
    let Tally {
        failed,
        timed_out,
        longest_wait,
        ..
    } = *tally.borrow();
    Ok(vec![
        (failed + timed_out) as f64,
        servers.finish().most_open.into(),
        longest_wait.as_secs_f64(),
    ])
}

async fn restart(environment: Rc<Environment>) -> io::Result<Vec<f64>> {
    let servers = Servers::start(4).await?;
    let balancer = environment
        .start(Settings {
            servers: servers.addresses(),
            check: Some(Check::Tcp),
            slow_start_seconds: Some(10),
            ..Settings::default()
        })
        .await?;
    let initial = Workload {
        initial: 1_600,
        process: None,
        hold: Hold::Exponential(20 * SECOND),
        sources: 1,
    };
    let mut arrivals = initial.arrivals(SECOND, 1, environment.seed);
    // Spread the arrivals over time, because the backlogs are limited.
    for (number, arrival) in (0..).zip(&mut arrivals) {
        arrival.at = Duration::from_millis(number);
    }
    CLIENTS.start(arrivals, vec![balancer.address]);
    sleep(2 * SECOND).await;
    let workload = poisson(80.0, Hold::Exponential(20 * SECOND));
    let tally = CLIENTS.start(
        workload.arrivals(35 * SECOND, 1, environment.seed),
        vec![balancer.address],
    );
    let watched = Watched {
        server: 0,
        from: Duration::ZERO,
    };
    sleep(SECOND).await;
    servers.exit(0);
    sleep(2 * SECOND).await;
    servers.measure(Duration::ZERO, Some(watched));
    servers.restart(0).await?;
    // Half a minute covers the server's return and the 15 s after it.
    sleep(30 * SECOND).await;
    let seconds = servers.finish().watched;
    // Average over two seconds, because single seconds are noisy.
    let peak = seconds
        .windows(2)
        .take(15)
        .map(|pair| f64::midpoint(pair[0].rate, pair[1].rate))
        .fold(0.0, f64::max);
    let share = seconds.get(14).map_or(0.0, |second| 100.0 * second.share);
    let tally = *tally.borrow();
    Ok(vec![peak, share, (tally.failed + tally.timed_out) as f64])
}

async fn balancers(environment: Rc<Environment>) -> io::Result<Vec<f64>> {
    const ROUNDS: u64 = 20;
    let servers = Servers::start(8).await?;
    let mut balancers = Vec::new();
    for _ in 0..3 {
        let settings = Settings {
            servers: servers.addresses(),
            ..Settings::default()
        };
        balancers.push(environment.start(settings).await?);
    }
    let addresses: Vec<_> = balancers.iter().map(|balancer| balancer.address).collect();
    let workload = Workload {
        initial: 48,
        process: None,
        hold: Hold::Fixed(SECOND),
        sources: 1,
    };
    let mut sum = 0.0;
    for round in 0..ROUNDS {
        wait_until(|| servers.open() == 0).await?;
        // Give the balancers time to notice that the connections have ended.
        sleep(SECOND / 5).await;
        let arrivals = workload.arrivals(SECOND, 3, environment.seed + round);
        CLIENTS.start(arrivals, addresses.clone());
        wait_until(|| servers.open() == 48).await?;
        servers.measure(Duration::ZERO, None);
        sleep(SECOND / 5).await;
        sum += servers.finish().peak_to_mean;
    }
    Ok(vec![sum / ROUNDS as f64])
}

async fn frozen(environment: Rc<Environment>) -> io::Result<Vec<f64>> {
    let servers = Servers::start(4).await?;
    let balancer = environment
        .start(Settings {
            servers: servers.addresses(),
            check: Some(Check::Talking),
            ..Settings::default()
        })
        .await?;
    let clients = Clients {
        answer_timeout: 5 * SECOND,
        ..CLIENTS
    };
    let workload = poisson(150.0, Hold::Exponential(SECOND / 4));
    let tally = clients.start(
        workload.arrivals(10 * SECOND, 1, environment.seed),
        vec![balancer.address],
    );
    sleep(2 * SECOND).await;
    servers.freeze(0);
    // The last clients arrive after 10 s and wait up to 5 s for an answer.
    sleep(14 * SECOND).await;
    let tally = *tally.borrow();
    Ok(vec![tally.timed_out as f64, tally.clients() as f64])
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// Waits until `condition` is true.
///
/// # Errors
/// `TimedOut` after ten seconds.
async fn wait_until(condition: impl Fn() -> bool) -> io::Result<()> {
    let end = Instant::now() + 10 * SECOND;
    while !condition() {
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
