//! The command line.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{
    chart, document,
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
    /// Seed of all random numbers. The same seed gives the same results.
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
}

/// Runs the program.
pub fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leastconn-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn std::error::Error>> {
    let is_selected = |name: &str| {
        cli.only.is_empty() || cli.only.iter().any(|word| name.contains(word.as_str()))
    };
    let scenarios = scenario::all()
        .into_iter()
        .filter(|scenario| is_selected(scenario.name));
    let mut report = Report {
        seed: cli.seed,
        scenarios: Vec::new(),
    };
    for scenario in scenarios {
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
    if cli.json {
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
