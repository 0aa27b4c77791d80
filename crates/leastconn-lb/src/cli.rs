//! The command line: one file a command.

pub mod check;
mod completions;
mod ctl;
pub mod demo;
pub mod explain;
mod healthcheck;
pub mod pki;
pub mod run;
pub mod schema;
mod top;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

/// The TCP load balancer that knows who is connecting.
///
/// Clients connect by mutual TLS; the certificate says who they are; rules say
/// which upstream servers they may reach, how fast and how many connections
/// they may open. Each connection goes to the allowed server with the fewest
/// connections.
#[derive(Debug, Parser)]
#[command(name = "leastconn-lb", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done or drained; 1 failed at run time, or drained by force; \
    2 wrong usage or invalid configuration.\n\n\
    To see it work, with nothing prepared: leastconn-lb demo"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the load balancer.
    #[command(
        after_help = "Signals: TERM and INT drain, then end, and a second one ends at once; \
        HUP reloads; USR1 opens the log file again; USR2 hands over to a new binary."
    )]
    Run(ConfigArgs),
    /// Show the main job with nothing prepared: throw-away certificates,
    /// embedded upstream servers, and clients with different rights.
    Demo(demo::DemoArgs),
    /// Read everything that `run` would, start nothing, and print every problem.
    Check(CheckArgs),
    /// Say what would happen to a client that shows a certificate, and why.
    Explain(explain::ExplainArgs),
    /// A small certificate authority for tests and small sites.
    Pki {
        #[command(subcommand)]
        command: pki::PkiCommand,
    },
    /// Ask and steer the running balancer, over its admin socket.
    Ctl(ctl::CtlArgs),
    /// Ask the running balancer whether it is ready; exits with 0 if it is.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Watch a running balancer in the terminal.
    Top(top::TopArgs),
    /// Print the configuration's JSON Schema.
    Schema {
        /// Print the OpenAPI description of the admin API instead.
        #[arg(long)]
        api: bool,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff: `leastconn-lb man | man -l -`.
    Man {
        /// Write a page for the program and one for each command into DIR instead.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file [default: leastconn.toml, then
    /// /etc/leastconn/leastconn.toml].
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What is checked.
#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Not an argument: to say what is.
    #[arg(hide = true, conflicts_with = "config")]
    file: Option<PathBuf>,
}

/// Done, or drained.
pub const DONE: u8 = 0;
/// Failed at run time, or drained by force.
pub const FAILED: u8 = 1;
/// Wrong usage, or an invalid configuration.
pub const INVALID: u8 = 2;

/// Runs the program with the arguments that it was given.
pub fn main() -> ExitCode {
    // Ends the process itself, with exit code 2, where the arguments are wrong.
    match Cli::parse().command {
        Command::Run(args) => run::run(args.config),
        Command::Demo(args) => demo::run(&args),
        Command::Check(CheckArgs {
            file: Some(file), ..
        }) => {
            let file = file.display();
            let usage =
                format!("unexpected argument {file}: write `leastconn-lb check --config {file}`");
            fail(&usage, INVALID)
        }
        Command::Check(args) => check::run(args.config.config),
        Command::Explain(args) => explain::run(args),
        Command::Pki { command } => match pki::run(command) {
            Ok(()) => ExitCode::from(DONE),
            Err(error) => fail(&error, FAILED),
        },
        Command::Ctl(args) => ctl::run(args),
        Command::Healthcheck(args) => healthcheck::run(args),
        Command::Top(args) => top::run(args),
        Command::Schema { api } => schema::run(api),
        Command::Completions { shell } => {
            completions::print(&completions::script(Cli::command(), shell))
        }
        Command::Man { dir: None } => completions::print(&completions::manual(Cli::command())),
        Command::Man { dir: Some(dir) } => completions::manuals(Cli::command(), &dir),
    }
}

/// Says what went wrong.
fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // Not `eprintln!`, which panics when the reader has gone.
    let _ = writeln!(io::stderr(), "leastconn-lb: {error}");
    ExitCode::from(code)
}

/// For a command that asks a running balancer: on this thread alone.
fn runtime() -> Result<tokio::runtime::Runtime, ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| fail(&error, FAILED))
}
