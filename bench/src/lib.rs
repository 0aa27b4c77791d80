//! `leastconn-bench`: a load generator and servers for TCP load balancers, and a
//! comparison of leastconn-lb with other balancers. See `bench/README.md`.

pub mod balance;
pub mod compare;
pub mod load;
pub mod machine;
pub mod protocol;
pub mod servers;
pub mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load generator, servers and comparison for TCP load balancers.
#[derive(Debug, Parser)]
#[command(name = "leastconn-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate load on a balancer, with or without TLS, and print the results.
    Load(load::LoadArgs),
    /// Run upstream servers for `load`.
    Servers(servers::ServersArgs),
    /// Compare leastconn-lb with other balancers.
    Compare(compare::CompareArgs),
    /// Compare how leastconn-lb and other balancers distribute connections.
    Balance(balance::BalanceArgs),
}

pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(args) => load::run(&args).map_err(|error| error.to_string()),
        Command::Servers(args) => servers::run(&args).map_err(|error| error.to_string()),
        Command::Compare(args) => compare::run(&args).map_err(|error| error.to_string()),
        Command::Balance(args) => balance::run(&args).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leastconn-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
