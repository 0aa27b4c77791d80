//! Measures how a handshake flood affects other clients.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{Balancer, Case, Child, MeasureError, Sample, Settings, tls};
use crate::compare::case::Attack;
use crate::{
    load::{Mode, Session, Spec},
    usage::Usage,
};

/// Concurrent handshakes of each flooding client.
pub const CONCURRENT_HANDSHAKES: usize = 200;

/// Connections per second that the newcomer opens. The newcomer is the client whose latency is
/// measured.
pub const NEWCOMERS_PER_SECOND: f64 = 5.0;

/// Source addresses of the flooding clients.
const FLOOD_SOURCES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];

/// Handshakes per second in floods with a fixed rate.
pub const MAZE_HANDSHAKES_PER_SECOND: f64 = 40.0;
pub const STALLED_HANDSHAKES_PER_SECOND: f64 = 300.0;

/// Source address of the newcomer.
const NEWCOMER_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// Factor by which the measurement is longer than in other cases. In the default of two seconds,
/// the newcomer would open only ten connections.
const DURATION_FACTOR: u32 = 5;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Flood {
    /// Median latency of the newcomer, from the time at which a connection was due until its echo.
    pub newcomer_p50_ns: u64,
    /// Maximum latency of the newcomer.
    pub newcomer_longest_ns: u64,
    /// Number of the newcomer's connections.
    pub newcomers: u64,
    /// Connections per second of all flooding clients.
    pub flood_per_second: f64,
    /// CPU seconds that the balancer used per second. 1 means one fully used CPU. A much lower
    /// value means that the load generator was the bottleneck.
    pub cpu_busy: f64,
    /// Latency of echoes on open connections before the flood.
    pub echo_p99_quiet_ns: u64,
    /// Latency of echoes on open connections during the flood.
    pub echo_p99_ns: u64,
}

/// Measures what other clients experience during an attack: the latency of a newcomer that opens a
/// few connections per second, and the latency of echoes on open connections. The attackers are
/// processes at the lowest priority, because their own latency is not measured. They do not verify
/// the balancer's certificate, so that the balancer runs out of CPU time before they do.
pub(super) async fn flood(
    attack: Attack,
    case: &Case,
    balancer: &Balancer,
    settings: &Settings,
    sample: &mut Sample,
) -> Result<(), MeasureError> {
    let target = balancer.target(case.transport, tls(case, settings).as_ref());
    let address = target.address;
    let echoes = Spec {
        mode: Mode::Echo,
        connections: 4,
        busy: 4,
        size: 64,
        rate: None,
        pause: Some(Duration::from_millis(1)),
        count: None,
    };
    let newcomers = Spec {
        mode: Mode::Connect,
        connections: NEWCOMERS_PER_SECOND.ceil() as usize,
        rate: Some(NEWCOMERS_PER_SECOND),
        pause: None,
        ..echoes
    };
    let mut newcomer_target = target.clone();
    newcomer_target.from = Some(IpAddr::V4(NEWCOMER_SOURCE));
    let echoing = Session::start(target.clone(), echoes).await?;
    sleep(settings.warm_up).await;
    echoing.start_counting();
    sleep(settings.seconds).await;
    let quiet = echoing.stop_counting();

    echoing.stop().await;

    // Measure the newcomer and the echoes separately, because the echoes also use CPU time.
    let coming = Session::start(newcomer_target, newcomers).await?;
    let floods = Floods::start(
        attack,
        address,
        settings,
        settings.seconds * DURATION_FACTOR,
    )?;
    sleep(settings.warm_up).await;
    let before = Usage::read(balancer.id())?;
    coming.start_counting();
    sleep(settings.seconds * DURATION_FACTOR).await;
    let came = coming.stop_counting();
    let cpu = Usage::read(balancer.id())?.since(&before);
    coming.stop().await;
    let per_second = floods.finish(&mut sample.errors).await?;

    let echoing = Session::start(target, echoes).await?;
    let floods = Floods::start(attack, address, settings, settings.seconds * 2)?;
    sleep(settings.warm_up).await;
    echoing.start_counting();
    sleep(settings.seconds * 2).await;
    let echoed = echoing.stop_counting();
    echoing.stop().await;
    floods.finish(&mut sample.errors).await?;

    sample.take(&came);
    sample.add_errors(&quiet.errors);
    sample.add_errors(&echoed.errors);
    sample.cpu_busy = Some(cpu.ns as f64 / 1e9 / came.elapsed.as_secs_f64());
    if let (Some(quiet), Some(echo), Some(new)) =
        (quiet.latency(), echoed.latency(), came.latency())
    {
        sample.cost = Some(new.max as f64 / 1e6);
        sample.flood = Some(Flood {
            newcomer_p50_ns: new.p50,
            newcomer_longest_ns: new.max,
            newcomers: came.operations,
            flood_per_second: per_second,
            cpu_busy: sample.cpu_busy.unwrap_or_default(),
            echo_p99_quiet_ns: quiet.p99,
            echo_p99_ns: echo.p99,
        });
    }
    Ok(())
}

/// Processes of the flooding clients, and the duration of the flood.
struct Floods(Vec<Child>, Duration);

impl Floods {
    fn start(
        attack: Attack,
        address: SocketAddr,
        settings: &Settings,
        seconds: Duration,
    ) -> io::Result<Self> {
        let mut floods = Vec::new();
        let (mode, client, sources) = match attack {
            Attack::Handshakes => ("connect", "client", &FLOOD_SOURCES[..]),
            Attack::Maze => ("refused", "maze", &FLOOD_SOURCES[..1]),
            Attack::Stalled => ("stall", "client", &FLOOD_SOURCES[..1]),
        };
        for (number, from) in sources.iter().enumerate() {
            let file = |name: &str| settings.pki.join(name).display().to_string();
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(["load", "--json", "--mode", mode, "--give-way"])
                .args(["--connections", &CONCURRENT_HANDSHAKES.to_string()])
                .args(["--from", &from.to_string()])
                .args(["--address", &address.to_string()])
                .args(["--warm-up", &settings.warm_up.as_secs_f64().to_string()])
                .args(["--duration", &seconds.as_secs_f64().to_string()])
                .args(["--tls", "--trusting", "--ca", &file("ca.crt")])
                .args(["--cert", &file(&format!("{client}.crt"))])
                .args(["--key", &file(&format!("{client}.key"))]);
            match attack {
                Attack::Handshakes => {}
                Attack::Maze => {
                    command.args(["--rate", &MAZE_HANDSHAKES_PER_SECOND.to_string()]);
                }
                Attack::Stalled => {
                    command.args(["--rate", &STALLED_HANDSHAKES_PER_SECOND.to_string()]);
                }
            }
            let log = settings.run.join(format!("flood-{number}.json"));
            let own = &settings.own_cpus;
            floods.push(Child::spawn(&mut command, own, own, &log)?);
        }
        Ok(Self(floods, seconds))
    }

    /// Waits until the processes exit. Returns the sum of their connections per second.
    async fn finish(mut self, errors: &mut BTreeMap<String, u64>) -> Result<f64, MeasureError> {
        let mut per_second = 0.0;
        for flood in &mut self.0 {
            flood.wait(self.1 + Duration::from_secs(20)).await?;
            let flooded: Flooded = serde_json::from_str(&flood.output()).map_err(|_| {
                let output = flood.log_tail();
                io::Error::other(format!("the flood failed: {output}"))
            })?;
            per_second += flooded.operations_per_second;
            for (kind, count) in flooded.errors {
                *errors.entry(format!("flood: {kind}")).or_default() += count;
            }
        }
        Ok(per_second)
    }
}

/// The JSON output of a flooding client.
#[derive(Deserialize)]
struct Flooded {
    operations_per_second: f64,
    errors: BTreeMap<String, u64>,
}
