//! `balance`: compares how leastconn-lb and other balancers distribute connections, for example
//! when servers are full, broken or restarted. Each situation takes a fixed time. All balancers
//! run it concurrently, with the same sequence of clients.

mod client;
mod config;
mod process;
mod report;
mod server;
mod situation;

use std::{
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use clap::Args;

use crate::{
    compare::program::{Kind, PEERS, Program},
    load::Progress,
    machine,
};
use report::{Report, Row};
use situation::{Environment, SITUATIONS};

#[derive(Args, Debug)]
pub struct BalanceArgs {
    /// Run only situations whose names contain one of these words; see --list.
    #[arg(long, value_name = "WORD,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Peers to compare with [default: all that are installed]; `none` runs only leastconn.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Seed for the random arrival times and durations of connections.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
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
    /// Output directory for result.json and table.txt.
    #[arg(long, value_name = "DIR", default_value = "target/bench-balance")]
    out: PathBuf,
    /// List the situations, and exit.
    #[arg(long)]
    list: bool,
}

/// An error in the benchmark itself. Failures of balancers appear in the table.
#[derive(Debug, thiserror::Error)]
pub enum BalanceError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0} cannot be run: build it first (cargo build --release -p leastconn-lb)")]
    NoBinary(PathBuf),
    #[error("unknown peer `{0}`")]
    UnknownPeer(String),
    #[error("interrupted; all started processes were stopped")]
    Interrupted,
}

/// Runs the situations.
///
/// # Errors
/// If leastconn-lb cannot be run, or a file cannot be written.
pub fn run(args: &BalanceArgs) -> Result<(), BalanceError> {
    if args.list {
        for situation in &SITUATIONS {
            println!("{:<16} {}", situation.name, situation.summary);
        }
        return Ok(());
    }
    machine::raise_open_files();
    let programs = programs(args)?;
    let directory = tempfile::Builder::new()
        .prefix("leastconn-balance-")
        .tempdir()?;
    let rows = machine::block_on(async {
        tokio::select! {
            rows = measure(args, &programs, directory.path()) => Ok(rows),
            () = machine::shutdown_signal() => Err(BalanceError::Interrupted),
        }
    })?;
    let report = Report::new(programs, args.seed, rows);
    let table = report.to_string();
    print!("{table}");
    fs::create_dir_all(&args.out)?;
    let json = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
    fs::write(args.out.join("result.json"), json)?;
    fs::write(args.out.join("table.txt"), table)?;
    println!(
        "\nresults: {}/{{result.json,table.txt}}",
        args.out.display()
    );
    Ok(())
}

async fn measure(args: &BalanceArgs, programs: &[Program], directory: &Path) -> Vec<Row> {
    let mut progress = Progress::default();
    let mut rows = Vec::new();
    for situation in &SITUATIONS {
        let is_selected = |word: &String| situation.name.contains(word.as_str());
        if !args.only.is_empty() && !args.only.iter().any(is_selected) {
            continue;
        }
        progress.show(&format!("{}: {}", situation.name, situation.summary));
        let tasks: Vec<_> = programs
            .iter()
            .map(|program| {
                let environment = Rc::new(Environment {
                    program: program.clone(),
                    directory: directory.to_owned(),
                    seed: args.seed,
                });
                let task = tokio::task::spawn_local((situation.run)(environment));
                (program.kind, task)
            })
            .collect();
        let mut results = Vec::new();
        for (kind, task) in tasks {
            let result = match task.await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            results.push((kind, result));
        }
        rows.extend(report::rows(situation, &results));
    }
    progress.clear();
    rows
}

/// Returns leastconn, followed by the requested peers that are installed.
fn programs(args: &BalanceArgs) -> Result<Vec<Program>, BalanceError> {
    let own = Program::at(Kind::Leastconn, args.binary.clone())
        .ok_or_else(|| BalanceError::NoBinary(args.binary.clone()))?;
    let wanted = match &args.peers {
        None => PEERS.to_vec(),
        Some(names) if names == &["none"] => Vec::new(),
        Some(names) => {
            let parse = |name: &String| {
                let mut known = PEERS.into_iter();
                known
                    .find(|kind| kind.to_string() == *name)
                    .ok_or_else(|| BalanceError::UnknownPeer(name.clone()))
            };
            names.iter().map(parse).collect::<Result<_, _>>()?
        }
    };
    let peers = wanted
        .into_iter()
        .filter_map(|kind| Program::find(kind, &args.installed));
    Ok([own].into_iter().chain(peers).collect())
}
