//! A measurement of one case on one balancer.

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

/// Settings common to all measurements.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Duration of the measurement.
    pub seconds: Duration,
    /// Duration of the load before the measurement starts.
    pub warm_up: Duration,
    /// TLS settings of the authorized client.
    pub tls: Tls,
    /// TLS settings of the authorized client, with session resumption.
    pub resuming: Tls,
    /// Directory with the certificates.
    pub pki: PathBuf,
    /// Directory for logs of child processes.
    pub run: PathBuf,
    /// CPUs for the load generator and the servers.
    pub own_cpus: Vec<usize>,
    /// Address of one server.
    pub server: SocketAddr,
}

/// The result of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub case: String,
    pub balancer: Kind,
    /// Number of the round, starting at 1.
    pub round: usize,
    /// The result in `unit`; less is better.
    pub cost: Option<f64>,
    pub unit: Unit,
    /// Duration of the measurement; 0 if it failed.
    pub seconds: f64,
    /// CPU seconds that the balancer used per second. 1 means one fully used CPU.
    pub cpu_busy: Option<f64>,
    /// Whether part of the CPU time has a resolution of only 10 ms.
    pub cpu_coarse: bool,
    /// Connections or echoes per second.
    pub operations_per_second: Option<f64>,
    /// Payload throughput.
    pub mib_per_second: Option<f64>,
    pub latency_ns: Option<Latency>,
    /// Proportional set size before the load, in bytes.
    pub memory_before: Option<u64>,
    /// Proportional set size while the connections were open, in bytes.
    pub memory: Option<u64>,
    pub connections: usize,
    /// Negotiated TLS version and cipher suite.
    pub negotiated: String,
    /// Share of resumed sessions. Only in cases with resumption.
    pub resumed: Option<f64>,
    /// Number of failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// CPU time of each worker in nanoseconds, in descending order. Only in cases that compare
    /// workers.
    pub worker_cpu_ns: Vec<u64>,
    /// Details of the fairness case.
    pub fairness: Option<Fairness>,
    /// Details of flood cases.
    pub flood: Option<Flood>,
}

/// 99th percentiles of the echoes, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fairness {
    /// p99 without a stream.
    pub p99_alone_ns: u64,
    /// p99 during a stream that bypasses the balancer. It shows how much the stream's client and
    /// server slow down the echoes.
    pub p99_beside_straight_ns: u64,
    /// p99 during a stream through the balancer.
    pub p99_beside_ns: u64,
}

pub use flood::Flood;

#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error("{0}")]
    Load(#[from] LoadError),
    /// `/proc` could not be read, for example because the balancer exited.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The measurement did not finish.
    #[error("not finished within {0:?}")]
    Stuck(Duration),
}

/// Measures `case` on `balancer`.
///
/// # Errors
/// If the measurement failed. Errors of individual connections do not fail the measurement;
/// they are counted in the sample.
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
            Work::Load(spec) | Work::Logged(spec) => {
                under_load(case, spec, balancer, settings, &mut sample).await
            }
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
        // Tokio's threads for blocking calls have the same name, but use little CPU time.
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
    // Open a few connections first, so that memory that is allocated once per process is
    // not counted.
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

/// Measures echoes without a stream, during a stream directly to a server, and during a stream
/// through the balancer. The stream's client and server run at the lowest priority, so that they
/// compete with the echoes only inside the balancer. The result of the direct stream shows how
/// much the client and the server still slow down the echoes.
async fn fairness(
    case: &Case,
    balancer: &Balancer,
    settings: &Settings,
    sample: &mut Sample,
) -> Result<(), MeasureError> {
    const ECHOES: usize = 4;
    // Without pauses, the echoes would use a whole CPU and leave no CPU time for the stream.
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
    for errors in [&alone.errors, &straight.errors, &streamed.errors] {
        sample.add_errors(errors);
    }
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

/// Measures the echoes of a session during a stream from `address`.
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
    // The stream gets little CPU time, so it may take a long time to finish.
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
        let output = stream.log_tail();
        io::Error::other(format!("the concurrent stream failed: {output}")).into()
    })
}

impl Sample {
    /// Ratio of the CPU time of the busiest worker to the mean of all workers.
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

    pub fn failed(case: &Case, balancer: Kind, round: usize, error: String) -> Self {
        Self {
            errors: [(error, 1)].into(),
            ..Self::empty(case, balancer, round)
        }
    }

    /// Compares the number of lines in the access log with the number of connections. Missing lines
    /// are recorded as an error.
    pub fn check_access_log(&mut self, lines: u64) {
        let per_second = self.operations_per_second.unwrap_or(0.0);
        let connections = (per_second * self.seconds).round() as u64;
        if lines < connections {
            let error = format!("only {lines} log lines for {connections} connections");
            self.errors.insert(error, 1);
        }
    }

    /// Whether the measurement failed. A finished measurement may also have errors.
    pub fn has_failed(&self) -> bool {
        self.seconds == 0.0
    }

    /// Records the share of resumed sessions. A share that is too low is recorded as an error.
    fn take_resumed(&mut self, tally: &Tally) {
        const MIN_SHARE: f64 = 0.9;
        self.resumed = ratio(tally.resumed as f64, tally.operations as f64);
        if let Some(share) = self.resumed.filter(|share| *share < MIN_SHARE) {
            let error = format!("only {:.0} % of the sessions were resumed", share * 100.0);
            self.errors.insert(error, 1);
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
        self.add_errors(&tally.errors);
    }

    /// Adds the errors of one phase to those of the other phases of the measurement.
    fn add_errors(&mut self, errors: &BTreeMap<String, u64>) {
        for (kind, count) in errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }
}

fn ratio(cost: f64, count: f64) -> Option<f64> {
    (count > 0.0).then_some(cost / count)
}

/// Bytes of memory per additional client rule.
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

/// Number of CAs in the certificate maze.
const MAZE: usize = 12;

/// Writes the certificates of balancers and clients to `directory`, and an untrusted chain with a
/// very large number of candidate paths.
///
/// # Errors
/// If a file cannot be written.
pub fn write_pki(directory: &Path) -> io::Result<()> {
    let ca = leastconn_testkit::TestCa::new("bench CA");
    let server = ca.write_set(directory, &[]);
    let both = format!("{}{}", server.cert_pem, server.key_pem);
    std::fs::write(directory.join("server-full.pem"), both)?;
    ca.leaf("bench.lb.com").build().write(directory, "client");
    // All CAs have the same name, so each CA is a candidate issuer of every other CA.
    let maze: Vec<_> = (0..MAZE)
        .map(|_| leastconn_testkit::TestCa::new("maze"))
        .collect();
    let leaf = maze[0].leaf("bench.lb.com").build();
    leaf.write(directory, "maze");
    let above: String = maze.iter().map(|ca| ca.cert_pem()).collect();
    std::fs::write(directory.join("maze.crt"), leaf.cert_pem.clone() + &above)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::case, *};

    #[test]
    fn errors_of_all_phases_are_added() {
        let mut sample = Sample::empty(&case::all(true, 1)[0], Kind::Leastconn, 0);
        for (kind, count) in [("reset", 3), ("reset", 1), ("refused", 2)] {
            sample.add_errors(&[(kind.to_owned(), count)].into());
        }
        let expected = [("refused".to_owned(), 2), ("reset".to_owned(), 4)];
        assert_eq!(sample.errors, expected.into());
    }

    #[test]
    fn missing_log_lines_are_an_error() {
        let mut sample = Sample::empty(&case::all(true, 1)[0], Kind::Leastconn, 0);
        sample.seconds = 0.3;
        sample.operations_per_second = Some(1000.0);
        sample.check_access_log(300);
        assert!(sample.errors.is_empty());
        sample.check_access_log(299);
        assert_eq!(sample.errors.len(), 1);
    }
}
