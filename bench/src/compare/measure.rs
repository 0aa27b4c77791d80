//! One measurement: one case, on one balancer.

pub mod flood;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    balancer::Balancer,
    case::{Case, Growth, Transport, Unit, Work},
    child::Child,
    program::Kind,
};
use crate::{
    load::{Latency, LoadError, Mode, Session, Spec, Tally, Tls},
    usage::{Usage, memory, threads_between},
};

/// How long things take, and with what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// That counts.
    pub seconds: Duration,
    /// Load before that.
    pub warm_up: Duration,
    /// TLS, as the client that the balancers know.
    pub tls: Tls,
    /// The same, by clients that resume their sessions.
    pub resuming: Tls,
    /// Directory of its certificates.
    pub pki: PathBuf,
    /// For the files of the measurement.
    pub run: PathBuf,
    /// Where load and servers are.
    pub own_cpus: Vec<usize>,
    /// One of the servers.
    pub server: SocketAddr,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Which case.
    pub case: String,
    /// Which balancer.
    pub balancer: Kind,
    /// From 1 on.
    pub round: usize,
    /// The figure, in the case's unit; less is better.
    pub cost: Option<f64>,
    /// What it counts.
    pub unit: Unit,
    /// Seconds that counted.
    pub seconds: f64,
    /// Of the balancer: 1 is one CPU all the time.
    pub cpu_busy: Option<f64>,
    /// Part of the CPU time was counted in ticks of 10 ms.
    pub cpu_coarse: bool,
    /// Connections or echoes a second.
    pub operations_per_second: Option<f64>,
    /// Payload.
    pub mib_per_second: Option<f64>,
    /// In nanoseconds.
    pub latency_ns: Option<Latency>,
    /// Proportional set size before the load, in bytes.
    pub memory_before: Option<u64>,
    /// The same while its connections were open.
    pub memory: Option<u64>,
    /// Connections open meanwhile.
    pub connections: usize,
    /// Version and cipher suite.
    pub negotiated: String,
    /// Where sessions are resumed: the part of the connections that were.
    pub resumed: Option<f64>,
    /// What failed, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Where workers are counted: CPU time of each, in nanoseconds, the busiest first.
    pub worker_cpu_ns: Vec<u64>,
    /// Fairness: what its ratio comes from.
    pub fairness: Option<Fairness>,
    /// Flood: what it did to others.
    pub flood: Option<Flood>,
}

/// 99th percentiles of the echoes, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fairness {
    /// Without a stream.
    pub p99_alone_ns: u64,
    /// With one that does not go through the balancer: what client and server of a
    /// stream keep from the echoes.
    pub p99_beside_straight_ns: u64,
    /// With one through the balancer.
    pub p99_beside_ns: u64,
}

pub use flood::Flood;

/// A measurement could not be done.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The load could not start.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// `/proc` could not be read: the balancer is gone.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It takes far longer than it should.
    #[error("not done in {0:?}")]
    Stuck(Duration),
}

/// Measures `case` on `balancer`.
///
/// # Errors
/// If there is no figure. Errors of single connections are in the sample.
pub async fn measure(
    case: &Case,
    kind: Kind,
    round: usize,
    balancer: &Balancer,
    settings: &Settings,
) -> Result<Sample, MeasureError> {
    let limit = settings.warm_up + settings.seconds * 3 + Duration::from_secs(60);
    let mut sample = Sample::empty(case, kind, round);
    let work = async {
        match case.work {
            Work::Load(spec) => under_load(case, spec, balancer, settings, &mut sample).await,
            Work::Memory { connections } => {
                idle(case, connections, balancer, settings, &mut sample).await
            }
            Work::Fairness => fairness(case, balancer, settings, &mut sample).await,
            Work::Flood(attack) => {
                flood::flood(attack, case, balancer, settings, &mut sample).await
            }
        }
    };
    timeout(limit, work)
        .await
        .map_err(|_| MeasureError::Stuck(limit))??;
    Ok(sample)
}

fn tls(case: &Case, settings: &Settings) -> Option<Tls> {
    match case.transport {
        Transport::Mtls => Some(settings.tls.clone()),
        Transport::MtlsResumed => Some(settings.resuming.clone()),
        Transport::Plain => None,
    }
}

async fn under_load(
    case: &Case,
    spec: Spec,
    balancer: &Balancer,
    settings: &Settings,
    sample: &mut Sample,
) -> Result<(), MeasureError> {
    let target = balancer.target(case.transport, tls(case, settings).as_ref());
    sample.memory_before = Some(memory(balancer.id())?);
    let session = Session::start(target, spec).await?;
    sleep(settings.warm_up).await;
    let before = Usage::read(balancer.id())?;
    session.start_counting();
    sleep(settings.seconds).await;
    let tally = session.stop_counting();
    let after = Usage::read(balancer.id())?;
    let cpu = after.since(&before);
    if let Some(Growth::Workers(count)) = case.growth {
        // Threads that wait for files have the same name, and next to nothing to do.
        sample.worker_cpu_ns = threads_between(balancer.id(), "worker", count, &before, &after);
    }
    sample.memory = Some(memory(balancer.id())?);
    session.stop().await;

    sample.take(&tally);
    if case.transport == Transport::MtlsResumed {
        sample.take_resumed(&tally);
    }
    sample.cpu_coarse = cpu.coarse;
    sample.cpu_busy = Some(cpu.ns as f64 / 1e9 / tally.elapsed.as_secs_f64());
    sample.cost = match spec.mode {
        Mode::FirstEcho => tally.latency().map(|latency| latency.p50 as f64 / 1e6),
        mode if mode.is_stream() => ratio(cpu.ns as f64, tally.bytes as f64 / 1024.0),
        _ => ratio(cpu.ns as f64 / 1000.0, tally.operations as f64),
    };
    Ok(())
}

async fn idle(
    case: &Case,
    connections: usize,
    balancer: &Balancer,
    settings: &Settings,
    sample: &mut Sample,
) -> Result<(), MeasureError> {
    const SETTLE: Duration = Duration::from_millis(500);
    let target = balancer.target(case.transport, tls(case, settings).as_ref());
    let spec = Spec {
        mode: Mode::Idle,
        connections,
        busy: 0,
        size: 64,
        rate: None,
        pause: None,
        count: None,
    };
    // The first few make what there is once, not for each connection.
    let few = Spec {
        connections: 10,
        ..spec
    };
    let session = Session::start(target.clone(), few).await?;
    sleep(SETTLE).await;
    let before = memory(balancer.id())?;
    let more = Session::start(target, spec).await?;
    sleep(SETTLE).await;
    let with = memory(balancer.id())?;
    sample.take(&more.finish().await);
    session.stop().await;
    sample.memory_before = Some(before);
    sample.memory = Some(with);
    let kib = with.saturating_sub(before) as f64 / 1024.0;
    sample.cost = ratio(kib, connections as f64);
    Ok(())
}

/// Echoes without a stream, beside one that goes as fast as it can straight to a
/// server, and beside one through the balancer. Client and server of the stream have
/// threads of their own that give way to everybody else, so that the balancer is all
/// that the stream can keep from the echoes; the straight one shows how far that is so.
async fn fairness(
    case: &Case,
    balancer: &Balancer,
    settings: &Settings,
    sample: &mut Sample,
) -> Result<(), MeasureError> {
    const ECHOES: usize = 4;
    // Without one, the echoes would need a whole CPU, and leave the stream none.
    const PAUSE: Duration = Duration::from_millis(1);
    let target = balancer.target(case.transport, tls(case, settings).as_ref());
    let address = target.address;
    let spec = Spec {
        mode: Mode::Echo,
        connections: ECHOES,
        busy: ECHOES,
        size: 64,
        rate: None,
        pause: Some(PAUSE),
        count: None,
    };
    let session = Session::start(target, spec).await?;
    sleep(settings.warm_up).await;
    session.start_counting();
    sleep(settings.seconds).await;
    let alone = session.stop_counting();
    let (straight, _) =
        measure_beside_stream(&session, settings.server, Transport::Plain, settings).await?;
    let (through, streamed) =
        measure_beside_stream(&session, address, case.transport, settings).await?;
    session.stop().await;

    sample.take(&through);
    sample.errors.extend(alone.errors.clone());
    sample.errors.extend(straight.errors.clone());
    sample.errors.extend(streamed.errors);
    sample.mib_per_second = Some(streamed.mib_per_second);
    if let (Some(alone), Some(straight), Some(through)) =
        (alone.latency(), straight.latency(), through.latency())
    {
        sample.cost = ratio(through.p99 as f64, alone.p99 as f64);
        sample.fairness = Some(Fairness {
            p99_alone_ns: alone.p99,
            p99_beside_straight_ns: straight.p99,
            p99_beside_ns: through.p99,
        });
    }
    Ok(())
}

/// Counts what the session does while a stream comes from `address`.
async fn measure_beside_stream(
    session: &Session,
    address: SocketAddr,
    transport: Transport,
    settings: &Settings,
) -> Result<(Tally, Streamed), MeasureError> {
    let seconds = (settings.warm_up + settings.seconds * 2).as_secs_f64();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["load", "--json", "--mode", "background"])
        .args(["--connections", "1", "--address", &address.to_string()])
        .args(["--warm-up", "0.1", "--duration", &seconds.to_string()]);
    if transport == Transport::Mtls {
        let file = |name: &str| settings.pki.join(name).display().to_string();
        command.args(["--tls", "--ca", &file("ca.crt")]).args([
            "--cert",
            &file("client.crt"),
            "--key",
            &file("client.key"),
        ]);
    }
    let log = settings.run.join("stream.json");
    let own = &settings.own_cpus;
    let mut stream = Child::spawn(&mut command, own, own, &log)?;
    sleep(settings.warm_up + Duration::from_millis(100)).await;
    session.start_counting();
    sleep(settings.seconds).await;
    let tally = session.stop_counting();
    // It has little time of its own.
    stream
        .wait(settings.seconds * 3 + Duration::from_secs(20))
        .await?;
    Ok((tally, read_stream(&stream)?))
}

#[derive(Deserialize)]
struct Streamed {
    mib_per_second: f64,
    errors: BTreeMap<String, u64>,
}

fn read_stream(stream: &Child) -> Result<Streamed, MeasureError> {
    serde_json::from_str(&stream.output()).map_err(|_| {
        let said = stream.log_tail();
        io::Error::other(format!("the stream beside the echoes failed: {said}")).into()
    })
}

impl Sample {
    /// CPU time of the busiest worker to the mean of all.
    pub fn worker_balance(&self) -> Option<f64> {
        let sum: u64 = self.worker_cpu_ns.iter().sum();
        let mean = sum as f64 / self.worker_cpu_ns.len() as f64;
        let most = *self.worker_cpu_ns.first()?;
        ratio(most as f64, mean)
    }

    fn empty(case: &Case, balancer: Kind, round: usize) -> Self {
        Self {
            case: case.name.clone(),
            balancer,
            round,
            cost: None,
            unit: case.unit(),
            seconds: 0.0,
            cpu_busy: None,
            cpu_coarse: false,
            operations_per_second: None,
            mib_per_second: None,
            latency_ns: None,
            memory_before: None,
            memory: None,
            connections: 0,
            negotiated: String::new(),
            resumed: None,
            errors: BTreeMap::new(),
            worker_cpu_ns: Vec::new(),
            fairness: None,
            flood: None,
        }
    }

    /// There is no figure, and this is why.
    pub fn failed(case: &Case, balancer: Kind, round: usize, why: String) -> Self {
        Self {
            errors: [(why, 1)].into(),
            ..Self::empty(case, balancer, round)
        }
    }

    /// It could not be measured, which is not the same as measured with errors.
    pub fn has_failed(&self) -> bool {
        self.seconds == 0.0
    }

    /// A figure of full handshakes must not pass for one of resumed ones.
    fn take_resumed(&mut self, tally: &Tally) {
        const ENOUGH: f64 = 0.9;
        self.resumed = ratio(tally.resumed as f64, tally.operations as f64);
        if let Some(part) = self.resumed.filter(|part| *part < ENOUGH) {
            let words = format!("only {:.0} % were resumed", part * 100.0);
            self.errors.insert(words, 1);
        }
    }

    fn take(&mut self, tally: &Tally) {
        let seconds = tally.elapsed.as_secs_f64();
        let per_second = |n: f64| (n > 0.0).then_some(n / seconds);
        self.seconds = seconds;
        self.operations_per_second = per_second(tally.operations as f64);
        self.mib_per_second = per_second(tally.bytes as f64 / 1_048_576.0);
        self.latency_ns = tally.latency();
        self.connections = tally.open;
        self.negotiated.clone_from(&tally.negotiated);
        self.errors.clone_from(&tally.errors);
    }
}

fn ratio(cost: f64, count: f64) -> Option<f64> {
    (count > 0.0).then_some(cost / count)
}

/// Bytes of memory that each further client rule costs.
pub fn bytes_per_identity(
    few: &Sample,
    few_of: Growth,
    many: &Sample,
    many_of: Growth,
) -> Option<f64> {
    let (Growth::Identities(few_of), Growth::Identities(many_of)) = (few_of, many_of) else {
        return None;
    };
    let more = many.memory_before? as f64 - few.memory_before? as f64;
    ratio(more, many_of.saturating_sub(few_of) as f64)
}

/// CAs in the maze.
const MAZE: usize = 12;

/// The certificates that everybody gets, and the maze that nobody trusts, in `directory`.
///
/// # Errors
/// If they cannot be written.
pub fn write_pki(directory: &Path) -> io::Result<()> {
    let ca = leastconn_testkit::TestCa::new("bench CA");
    let server = ca.write_set(directory, &[]);
    let both = format!("{}{}", server.cert_pem, server.key_pem);
    std::fs::write(directory.join("server-full.pem"), both)?;
    ca.leaf("bench.lb.com").build().write(directory, "client");
    // Self-made CAs of one name: each may have issued all others.
    let maze: Vec<_> = (0..MAZE)
        .map(|_| leastconn_testkit::TestCa::new("maze"))
        .collect();
    let leaf = maze[0].leaf("bench.lb.com").build();
    leaf.write(directory, "maze");
    let above: String = maze.iter().map(|ca| ca.cert_pem()).collect();
    std::fs::write(directory.join("maze.crt"), leaf.cert_pem.clone() + &above)?;
    Ok(())
}
