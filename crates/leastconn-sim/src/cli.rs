//! The command line.

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{
    chart, document,
    replay::Replay,
    report::{self, Report},
    scenario,
};

/// Simulates the balancing algorithms of leastconn.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Simulate only scenarios whose names contain one of these words; see --list.
    #[arg(long, value_name = "WORD,…", value_delimiter = ',')]
    only: Vec<String>,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
    /// Seed for all random numbers. The same seed gives the same results.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Write charts as SVG files to DIR. A chart is left out if its scenarios were not
    /// simulated.
    #[arg(long, value_name = "DIR")]
    charts: Option<PathBuf>,
    /// Replace the tables in a Markdown file, which are between `<!-- simulation NAME -->` and
    /// `<!-- end -->`.
    #[arg(long, value_name = "FILE")]
    update: Option<PathBuf>,
    /// Replay the connections of an access log instead of the scenarios. If several balancers
    /// share the servers, give the log of each.
    #[arg(long, value_name = "ACCESS_LOG", conflicts_with_all = ["only", "list", "charts", "update"])]
    replay: Vec<PathBuf>,
    /// The configuration with the servers of a replay [default: the servers that the log names,
    /// with equal weights].
    #[arg(long, value_name = "FILE", requires = "replay")]
    config: Option<PathBuf>,
    /// Replay only the connections to this upstream.
    #[arg(long, value_name = "NAME", requires = "replay")]
    upstream: Option<String>,
}

pub fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leastconn-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let report = if cli.replay.is_empty() {
        simulate(cli)?
    } else {
        replay(cli)?
    };
    if cli.json && !cli.list {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    if let Some(directory) = &cli.charts {
        fs::create_dir_all(directory)?;
        for chart in chart::all(&report)? {
            fs::write(directory.join(chart.file), chart.svg)?;
        }
    }
    if let Some(file) = &cli.update {
        let updated = document::update(&fs::read_to_string(file)?, &report)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        fs::write(file, updated)?;
    }
    Ok(())
}

fn simulate(cli: &Cli) -> Result<Report, Box<dyn Error>> {
    let is_selected = |name: &str| {
        cli.only.is_empty() || cli.only.iter().any(|word| name.contains(word.as_str()))
    };
    let mut report = Report {
        seed: cli.seed,
        scenarios: Vec::new(),
    };
    for scenario in scenario::all() {
        if !is_selected(scenario.name) {
            continue;
        }
        if cli.list {
            println!("{:<24} {}", scenario.name, scenario.summary);
            continue;
        }
        let result = report::run(&scenario, cli.seed)?;
        if !cli.json {
            println!("{result}");
        }
        report.scenarios.push(result);
    }
    if report.scenarios.is_empty() && !cli.list {
        return Err("no scenario selected; see --list".into());
    }
    Ok(report)
}

fn replay(cli: &Cli) -> Result<Report, Box<dyn Error>> {
    let replay = Replay {
        logs: cli.replay.clone(),
        config: cli.config.clone(),
        upstream: cli.upstream.clone(),
        seed: cli.seed,
    };
    let (scenarios, skipped_lines) = replay.run()?;
    if skipped_lines > 0 {
        eprintln!("leastconn-sim: skipped {skipped_lines} lines that are not access log lines");
    }
    if !cli.json {
        for scenario in &scenarios {
            println!("{scenario}");
        }
    }
    Ok(Report {
        seed: cli.seed,
        scenarios,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn unknown_scenario_is_an_error() {
        let cli = Cli::parse_from(["leastconn-sim", "--only", "nothing"]);
        assert!(simulate(&cli).is_err());
    }
}
