//! Workloads: when connections arrive, and how long they last.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use leastconn::Source;

use crate::random::Random;

/// One connection of a client.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Time since the start of the simulation.
    pub at: Duration,
    /// How long the connection lasts on a server that works normally.
    pub hold: Duration,
    pub source: Source,
    /// The balancer to which the client connects.
    pub balancer: usize,
}

/// When connections arrive.
#[derive(Clone, Copy, Debug)]
pub enum Process {
    /// Independent arrivals at a constant mean rate per second.
    Poisson { rate: f64 },
    /// `size` simultaneous connections, at the start and then at intervals of `every`.
    Bursts { size: usize, every: Duration },
}

/// How long connections last.
#[derive(Clone, Copy, Debug)]
pub enum Hold {
    Fixed(Duration),
    Exponential(Duration),
    /// Heavy-tailed: most connections are short, a few last very long.
    Pareto {
        mean: Duration,
        shape: f64,
    },
}

impl Hold {
    fn draw(self, random: &mut Random) -> Duration {
        match self {
            Self::Fixed(hold) => hold,
            Self::Exponential(mean) => random.exponential(mean),
            Self::Pareto { mean, shape } => random.pareto(mean, shape),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Connections that arrive at the start, before those of `process`.
    pub initial: usize,
    pub process: Option<Process>,
    pub hold: Hold,
    /// Number of source addresses. Each connection uses a random one.
    pub sources: u32,
}

impl Workload {
    /// Generates the arrivals within `duration`, in order. Each arrival chooses one of `balancers`
    /// at random.
    pub fn arrivals(&self, duration: Duration, balancers: usize, seed: u64) -> Vec<Arrival> {
        let mut holds = Random::new(seed, 1);
        let mut clients = Random::new(seed, 2);
        let arrival = |at| Arrival {
            at,
            hold: self.hold.draw(&mut holds),
            source: source(clients.below(self.sources as usize)),
            balancer: clients.below(balancers),
        };
        let times = std::iter::repeat_n(Duration::ZERO, self.initial);
        times
            .chain(self.times(duration, seed))
            .map(arrival)
            .collect()
    }

    fn times(&self, duration: Duration, seed: u64) -> Vec<Duration> {
        let mut times = Vec::new();
        let mut at = Duration::ZERO;
        match self.process {
            None => {}
            Some(Process::Poisson { rate }) => {
                let mut gaps = Random::new(seed, 3);
                let mean = Duration::from_secs_f64(1.0 / rate);
                loop {
                    at += gaps.exponential(mean);
                    if at >= duration {
                        break;
                    }
                    times.push(at);
                }
            }
            Some(Process::Bursts { size, every }) => {
                while at < duration {
                    times.extend(std::iter::repeat_n(at, size));
                    at += every;
                }
            }
        }
        times
    }
}

/// The source with this number, an address in 10.0.0.0/8.
fn source(number: usize) -> Source {
    const NET: u32 = 10 << 24;
    // The network has 2^24 addresses.
    let host = (number & 0x00ff_ffff) as u32;
    Source::from(IpAddr::V4(Ipv4Addr::from(NET | host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn workload(process: Process) -> Workload {
        Workload {
            initial: 5,
            process: Some(process),
            hold: Hold::Exponential(SECOND),
            sources: 100,
        }
    }

    #[test]
    fn poisson_arrivals_have_the_requested_rate() {
        let arrivals = workload(Process::Poisson { rate: 200.0 }).arrivals(100 * SECOND, 3, 7);
        let count = arrivals.len() as f64;
        // Five standard deviations.
        assert!((count - 20_005.0).abs() < 5.0 * 20_000f64.sqrt(), "{count}");
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
        assert!((0..3).all(|n| arrivals.iter().any(|arrival| arrival.balancer == n)));
    }

    #[test]
    fn bursts_arrive_together() {
        let process = Process::Bursts {
            size: 10,
            every: 2 * SECOND,
        };
        let arrivals = workload(process).arrivals(5 * SECOND, 1, 7);
        let at = |second| arrivals.iter().filter(|a| a.at == second * SECOND).count();
        assert_eq!((at(0), at(2), at(4), arrivals.len()), (15, 10, 10, 35));
    }
}
