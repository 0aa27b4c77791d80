//! `leastconn-bench`: a load tool and servers for any TCP balancer, and the
//! side-by-side run of leastconn-lb and others. See `bench/README.md`.

pub mod compare;
pub mod load;
pub mod machine;
pub mod protocol;
pub mod servers;
pub mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load, servers and a side-by-side run for TCP load balancers.
#[derive(Debug, Parser)]
#[command(name = "leastconn-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put load on a balancer, with or without TLS, and say how it did.
    Load(load::LoadArgs),
    /// Run upstream servers for `load`.
    Servers(servers::ServersArgs),
    /// Measure leastconn-lb and other balancers in turn.
    Compare(compare::CompareArgs),
}

/// Runs the program with the arguments that it was given.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(args) => load::run(&args).map_err(|error| error.to_string()),
        Command::Servers(args) => servers::run(&args).map_err(|error| error.to_string()),
        Command::Compare(args) => compare::run(&args).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leastconn-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
