//! `compare`: measures leastconn-lb and other balancers. Each round measures each case on all
//! balancers, one after the other, so that changes in the machine's speed affect all of them
//! alike. The order of the balancers rotates from case to case.

pub mod balancer;
pub mod case;
pub mod chart;
pub mod child;
pub mod measure;
pub mod program;
pub mod report;
pub mod stats;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Args;
use tokio::time::{Instant, sleep};

use crate::{
    load::{Identity, LoadError, Progress, TlsOptions, certificates},
    machine::{self, Machine},
};
use balancer::{Balancer, Job, Records, StartError};
use case::{Case, Growth};
use child::Child;
use measure::{Sample, Settings, measure};
use program::{Kind, PEERS, Program};
use report::Report;

/// Number of file descriptors that a balancer needs in addition to two per connection.
const RESERVE: usize = 200;

#[derive(Args, Debug)]
pub struct CompareArgs {
    /// Number of rounds. Each round measures each case once per balancer.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Measure only cases whose names contain one of these words; see --list.
    #[arg(long, value_name = "WORD,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Peers to compare with [default: all that are installed]; `none` runs only leastconn.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Measure fewer cases, for a shorter time and with fewer connections. Fails only if
    /// leastconn has errors, not if a result is missing.
    #[arg(long)]
    quick: bool,
    /// Seconds per measurement, excluding warm-up [default: 2; quick: 0.3].
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Worker threads of each balancer, each on its own CPU.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    workers: u8,
    /// Record layer of leastconn [default: leastconn's own default].
    #[arg(long, value_enum)]
    records: Option<Records>,
    /// Path of leastconn-lb.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/release/leastconn-lb"
    )]
    binary: PathBuf,
    /// Directory into which bench/peers.sh installed peers.
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    installed: PathBuf,
    /// Output directory for result.json, table.txt and chart.svg.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Do not pin processes to CPUs, and allow a single CPU. The figures are unreliable.
    #[arg(long)]
    unpinned: bool,
    /// Print the names of all cases, and exit.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Certificates could not be loaded.
    #[error("{0}")]
    Load(#[from] LoadError),
    #[error("{0} cannot be run: build it first (cargo build --release -p leastconn-lb)")]
    NoBinary(PathBuf),
    #[error("leastconn: {0}")]
    Start(#[from] StartError),
    /// There is only one CPU, but the load generator and the balancer need separate CPUs.
    #[error("only one CPU: load and balancer would share it. Use --unpinned to measure anyway")]
    OneCpu,
    #[error("{0}")]
    Usage(String),
    #[error("interrupted; all started processes were stopped")]
    Interrupted,
    /// Measurements of leastconn failed or had errors. The table has the details.
    #[error("{0} measurements of leastconn had errors or no result")]
    Failed(usize),
}

/// Runs the comparison.
///
/// # Errors
/// If a measurement of leastconn-lb failed or had errors. Errors of peers are only
/// printed in the table.
pub fn run(args: &CompareArgs) -> Result<(), CompareError> {
    let open_files = machine::raise_open_files();
    let most = open_files.saturating_sub(RESERVE) / 2;
    let cases = case::select(case::all(args.quick, most), &args.only);
    if args.list {
        for case in cases {
            println!("{}", case.name);
        }
        return Ok(());
    }
    if cases.is_empty() || args.rounds == 0 {
        return Err(CompareError::Usage(
            "no case selected; see --list".to_owned(),
        ));
    }
    let mut bench = Bench::new(args, cases, most)?;
    machine::block_on(async {
        tokio::select! {
            result = bench.run() => result,
            () = machine::shutdown_signal() => Err(CompareError::Interrupted),
        }
    })?;
    bench.report(args)
}

struct Bench {
    machine: Machine,
    date: String,
    programs: Vec<Program>,
    cases: Vec<Case>,
    rounds: usize,
    settings: Settings,
    job: Job,
    /// CPUs for the cases that compare one worker with two workers.
    two_cpus: Vec<usize>,
    notes: Vec<String>,
    samples: Vec<Sample>,
    progress: Progress,
    /// Holds certificates, configurations and logs. Deleted at the end of the run.
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(args: &CompareArgs, cases: Vec<Case>, most: usize) -> Result<Self, CompareError> {
        let mut notes = Vec::new();
        let workers = usize::from(args.workers);
        let machine = Machine::detect();
        let (cpus, own_cpus) = assign_cpus(&machine::cpus(), workers, args.unpinned)?;
        let (two_cpus, _) = assign_cpus(&machine::cpus(), 2, args.unpinned)?;
        if args.unpinned {
            notes.push("not pinned: balancer and load compete for CPU time".to_owned());
        } else if cpus.iter().any(|cpu| own_cpus.contains(cpu)) {
            notes.push("balancer and load share a CPU".to_owned());
        }
        if let Some(records) = args.records {
            notes.push(format!("leastconn with tls_records = \"{records}\""));
        }
        let programs = programs(args, &mut notes)?;
        let smaller = case::all(args.quick, usize::MAX);
        if cases
            .iter()
            .any(|c| !smaller.iter().any(|full| full.name == c.name))
        {
            notes.push(format!(
                "the limit on open files allows {most} connections: some cases use fewer than specified"
            ));
        }

        let directory = tempfile::Builder::new()
            .prefix("leastconn-bench-")
            .tempdir()?;
        let (pki, run) = (directory.path().join("pki"), directory.path().join("run"));
        fs::create_dir(&pki)?;
        fs::create_dir(&run)?;
        measure::write_pki(&pki)?;
        let tls = |resume, clients| {
            let (cert, key) = (pki.join("client.crt"), pki.join("client.key"));
            TlsOptions {
                authorities: certificates(&pki.join("ca.crt"))?,
                identities: vec![Identity::read(&cert, &key)?],
                server_name: "localhost".to_owned(),
                tls12: false,
                post_quantum: false,
                resume,
                trusting: false,
                clients,
            }
            .build()
        };
        let (seconds, warm_up) = if args.quick { (0.3, 0.1) } else { (2.0, 0.6) };
        let seconds = Duration::try_from_secs_f64(args.seconds.unwrap_or(seconds));
        let settings = Settings {
            seconds: seconds.map_err(|error| CompareError::Usage(format!("--seconds: {error}")))?,
            warm_up: Duration::from_secs_f64(warm_up),
            tls: tls(false, 1)?,
            // Use more clients than concurrent connections, so that each client has
            // received its ticket before it connects again.
            resuming: tls(true, 64)?,
            pki: pki.clone(),
            run: run.clone(),
            own_cpus: own_cpus.clone(),
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        machine::pin(&own_cpus)?;
        Ok(Self {
            machine,
            date: jiff::Timestamp::now()
                .strftime("%Y-%m-%d %H:%M UTC")
                .to_string(),
            programs,
            cases,
            rounds: args.rounds,
            settings,
            job: Job {
                pki,
                run,
                servers: Vec::new(),
                workers,
                records: args.records,
                access_log: false,
                identities: 1,
                max_connections: most,
                cpus,
                own_cpus,
            },
            two_cpus,
            notes,
            samples: Vec::new(),
            progress: Progress::default(),
            _directory: directory,
        })
    }

    async fn run(&mut self) -> Result<(), CompareError> {
        let start = Instant::now();
        let (_servers, addresses) = self.start_servers().await?;
        self.job.servers = addresses[..4].to_vec();
        self.settings.server = addresses[0];
        let running = self.start_balancers().await?;
        let total = self.rounds * self.cases.len();
        for round in 1..=self.rounds {
            for (number, case) in self.cases.clone().iter().enumerate() {
                let done = (round - 1) * self.cases.len() + number;
                let kinds: Vec<Kind> = match case.growth {
                    Some(_) => vec![Kind::Leastconn],
                    None => running.keys().copied().collect(),
                };
                let kinds: Vec<Kind> = kinds
                    .into_iter()
                    .filter(|kind| kind.has_access_log() || !case.has_access_log())
                    .filter(|kind| !self.is_skipped(*kind))
                    .collect();
                // Rotate the order, because a measurement may affect the next one.
                let first = (round + number) % kinds.len();
                for kind in [&kinds[first..], &kinds[..first]].concat() {
                    let elapsed = start.elapsed().as_secs();
                    let left = elapsed * (total - done) as u64 / (done as u64).max(1);
                    let left = match done {
                        0 => String::new(),
                        _ => format!(", about {}:{:02} left", left / 60, left % 60),
                    };
                    let text = format!("[{}/{total}] {} {kind}{left}", done + 1, case.name);
                    self.progress.show(&text);
                    self.sample(case, kind, round, &running[&kind], &addresses)
                        .await;
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        self.progress.clear();
        Ok(())
    }

    /// Whether to skip a balancer. Peers are skipped after two failed measurements, because
    /// each failed measurement may take a minute.
    fn is_skipped(&self, kind: Kind) -> bool {
        let failed = |s: &&Sample| s.balancer == kind && s.has_failed();
        kind != Kind::Leastconn && self.samples.iter().filter(failed).count() >= 2
    }

    async fn sample(
        &mut self,
        case: &Case,
        kind: Kind,
        round: usize,
        running: &Balancer,
        addresses: &[SocketAddr],
    ) {
        let result = if case.needs_fresh_process() {
            let mut job = self.job.clone();
            job.access_log = case.has_access_log();
            match case.growth {
                Some(Growth::Servers(count)) => job.servers = addresses[..count].to_vec(),
                Some(Growth::Identities(count)) => job.identities = count,
                Some(Growth::Workers(count)) => {
                    job.workers = count;
                    job.cpus.clone_from(&self.two_cpus);
                }
                Some(Growth::Open(_)) | None => {}
            }
            let program = self.programs.iter().find(|program| program.kind == kind);
            let started = match program {
                Some(program) => Balancer::start(program, &job, &self.settings.tls).await,
                None => return,
            };
            match started {
                Ok(fresh) => measure_fresh(case, kind, round, fresh, &self.settings).await,
                Err(error) => Err(error.to_string()),
            }
        } else {
            measure(case, kind, round, running, &self.settings)
                .await
                .map_err(|error| error.to_string())
        };
        match result {
            Ok(sample) => self.samples.push(sample),
            Err(error) => {
                let sample = Sample::failed(case, kind, round, error);
                self.samples.push(sample);
            }
        }
    }

    /// Starts the servers in a separate process, because each process has its own limit of
    /// open files.
    async fn start_servers(&self) -> Result<(Child, Vec<SocketAddr>), CompareError> {
        let count = self.cases.iter().map(|case| match case.growth {
            Some(Growth::Servers(count)) => count,
            _ => 4,
        });
        let count = count.max().unwrap_or(4).max(4);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["servers", "--with-stdin", "--count", &count.to_string()]);
        let own = &self.job.own_cpus;
        let log = self.job.run.join("servers.log");
        let mut child = Child::spawn(&mut command, own, own, &log)?;
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let text = child.output();
            if let Some(list) = text
                .strip_suffix('\n')
                .and_then(|t| t.strip_prefix("ready "))
            {
                let addresses = list.split(' ').filter_map(|a| a.parse().ok()).collect();
                return Ok((child, addresses));
            }
            if child.exit_status().is_some() || Instant::now() >= end {
                let error = format!("the servers did not start: {}", child.log_tail());
                return Err(io::Error::other(error).into());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts all balancers. Peers that fail to start are left out, and a note says so.
    async fn start_balancers(&mut self) -> Result<BTreeMap<Kind, Balancer>, CompareError> {
        let mut running = BTreeMap::new();
        for program in self.programs.clone() {
            self.progress.show(&format!("starting {}", program.kind));
            match Balancer::start(&program, &self.job, &self.settings.tls).await {
                Ok(balancer) => {
                    running.insert(program.kind, balancer);
                }
                Err(error) if program.kind == Kind::Leastconn => return Err(error.into()),
                Err(error) => {
                    self.notes
                        .push(format!("{} left out: {error}", program.kind));
                    self.programs.retain(|other| other.kind != program.kind);
                }
            }
        }
        Ok(running)
    }

    fn report(self, args: &CompareArgs) -> Result<(), CompareError> {
        let kinds: Vec<Kind> = self.programs.iter().map(|program| program.kind).collect();
        let report = Report {
            date: self.date,
            command: command_line(),
            machine: self.machine,
            programs: self.programs,
            rounds: self.rounds,
            workers: self.job.workers,
            notes: self.notes,
            lines: report::lines(&self.cases, &kinds, &self.samples),
            growth: report::growth(&self.cases, &self.samples),
            samples: self.samples,
        };
        let table = report.table();
        print!("{table}");
        fs::create_dir_all(&args.out)?;
        let json = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
        fs::write(args.out.join("result.json"), json)?;
        fs::write(args.out.join("table.txt"), table)?;
        if let Some(svg) = chart::draw(&report) {
            fs::write(args.out.join("chart.svg"), svg)?;
        }
        println!(
            "\nresults: {}/{{result.json,table.txt,chart.svg}}",
            args.out.display()
        );
        match report.errors_of_leastconn(args.quick) {
            0 => Ok(()),
            count => Err(CompareError::Failed(count)),
        }
    }
}

/// Measures `case` on a balancer that was started for it.
async fn measure_fresh(
    case: &Case,
    kind: Kind,
    round: usize,
    balancer: Balancer,
    settings: &Settings,
) -> Result<Sample, String> {
    let measured = measure(case, kind, round, &balancer, settings).await;
    let mut sample = measured.map_err(|error| error.to_string())?;
    if case.has_access_log() {
        let lines = balancer.count_log_lines().await;
        sample.check_access_log(lines.map_err(|error| format!("access log: {error}"))?);
    }
    Ok(sample)
}

/// Returns the command line, with the directory of the program removed.
fn command_line() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name = Path::new(&program).file_name().map_or_else(
        || "leastconn-bench".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    [name]
        .into_iter()
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns leastconn, followed by the requested peers that are installed.
fn programs(args: &CompareArgs, notes: &mut Vec<String>) -> Result<Vec<Program>, CompareError> {
    let own = Program::at(Kind::Leastconn, args.binary.clone())
        .ok_or_else(|| CompareError::NoBinary(args.binary.clone()))?;
    let mut programs = vec![own];
    let wanted = match &args.peers {
        None => PEERS.to_vec(),
        Some(names) if names == &["none"] => Vec::new(),
        Some(names) => {
            let parse = |name: &String| {
                let known = PEERS.into_iter().find(|kind| kind.to_string() == *name);
                known.ok_or_else(|| CompareError::Usage(format!("unknown peer `{name}`")))
            };
            names.iter().map(parse).collect::<Result<_, _>>()?
        }
    };
    for kind in wanted {
        match Program::find(kind, &args.installed) {
            Some(program) => programs.push(program),
            None => notes.push(format!("{kind} is not installed: left out")),
        }
    }
    Ok(programs)
}

/// Assigns CPUs. The balancer gets the first CPUs, one per worker. The load generator and the
/// servers share the last CPU.
fn assign_cpus(
    cpus: &[usize],
    workers: usize,
    unpinned: bool,
) -> Result<(Vec<usize>, Vec<usize>), CompareError> {
    match cpus {
        _ if unpinned => Ok((cpus.to_vec(), cpus.to_vec())),
        [] | [_] => Err(CompareError::OneCpu),
        [.., last] => Ok((cpus[..workers.min(cpus.len())].to_vec(), vec![*last])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_gets_a_cpu_of_its_own() {
        let ok = |cpus: &[usize], workers| assign_cpus(cpus, workers, false).unwrap();
        assert_eq!(ok(&[0, 1], 1), (vec![0], vec![1]));
        assert_eq!(ok(&[2, 3, 5, 7], 2), (vec![2, 3], vec![7]));
        assert_eq!(ok(&[0, 1], 2), (vec![0, 1], vec![1]));
        assert!(matches!(
            assign_cpus(&[0], 1, false),
            Err(CompareError::OneCpu)
        ));
        assert_eq!(assign_cpus(&[0], 1, true).unwrap(), (vec![0], vec![0]));
    }
}
