//! The command line: one module per command.

pub mod check;
mod completions;
mod config_manual;
mod ctl;
#[cfg(feature = "demo")]
pub mod demo;
pub mod explain;
mod fleet_acl;
mod healthcheck;
mod import;
mod init;
pub mod pki;
pub mod run;
pub mod schema;
#[cfg(feature = "top")]
mod top;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{
    Args, CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use leastconn_config::Config;

/// TCP load balancer with mutual TLS and per-client authorization.
///
/// Clients authenticate with a certificate. Rules map each client to the
/// upstream servers it may use and limit its connection rate and its number of
/// open connections. Each connection goes to the allowed server with the fewest
/// connections.
#[derive(Debug, Parser)]
#[command(name = "leastconn-lb", version, propagate_version = true)]
#[command(after_help = after_help())]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first configuration with certificates, after three questions.
    ///
    /// Writes leastconn.toml and the directory pki with a CA, a server certificate and a
    /// client certificate, and prints the next commands. Existing files are never overwritten.
    #[command(
        after_help = "Exit codes: 0 the files were written; 1 they cannot be written, for example \
        because they exist; 2 wrong usage or an invalid answer."
    )]
    Init(init::InitArgs),
    /// Run the load balancer.
    #[command(
        after_help = "Signals: TERM and INT drain and exit, a second one exits at once; \
        HUP reloads the configuration; USR1 reopens the log file; USR2 upgrades to a new \
        binary without closing the listeners."
    )]
    Run(ConfigArgs),
    /// Run a self-contained demonstration with temporary certificates, built-in
    /// upstream servers and clients with different permissions.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Check the configuration and every file it names, without starting anything.
    Check(CheckArgs),
    /// Show how a client with a given certificate would be handled, and why.
    Explain(explain::ExplainArgs),
    /// Translate another program's configuration. Directives without an equivalent are kept as
    /// comments.
    #[command(
        after_help = "Exit codes: 0 everything was carried over; 1 something was left out; \
        2 wrong usage or unreadable source."
    )]
    Import(import::ImportArgs),
    /// Manage a small certificate authority for tests and small sites.
    Pki {
        #[command(subcommand)]
        command: pki::PkiCommand,
    },
    /// Query and control a running balancer over its admin socket.
    Ctl(ctl::CtlArgs),
    /// Exit with 0 if the running balancer is ready, for a container's HEALTHCHECK.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Show a live view of a running balancer in the terminal.
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    /// Print the Valkey or Redis ACL rule for the fleet's user, as a line of an ACL file. The line
    /// does not contain the password: add it.
    FleetAcl(ConfigArgs),
    /// Print the configuration's JSON Schema.
    Schema {
        /// Print the OpenAPI description of the admin API instead.
        #[arg(long)]
        api: bool,
    },
    /// Print a completion script for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page in roff format: `leastconn-lb man | man -l -`.
    Man {
        /// Write one page for the program, one per command and leastconn.toml(5) to DIR instead.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print leastconn.toml(5), the manual page of the configuration file, instead.
        #[arg(long, conflicts_with = "dir")]
        config: bool,
    },
}

/// Names the cargo features that were off in the build, because their commands are missing.
fn after_help() -> String {
    let mut help = "Exit codes: 0 success or drained; 1 failed at run time, or connections were \
        cut off; 2 wrong usage or invalid configuration."
        .to_owned();
    if cfg!(feature = "demo") {
        help.push_str("\n\nTo try it without any setup: leastconn-lb demo");
    }
    let features = [
        ("dashboard", cfg!(feature = "dashboard")),
        ("demo", cfg!(feature = "demo")),
        ("top", cfg!(feature = "top")),
    ];
    let missing: Vec<_> = features
        .into_iter()
        .filter_map(|(feature, is_built)| (!is_built).then_some(feature))
        .collect();
    if !missing.is_empty() {
        help.push_str("\n\nBuilt without: ");
        help.push_str(&missing.join(", "));
    }
    help
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file [default: leastconn.toml, then
    /// /etc/leastconn/leastconn.toml].
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Accepted only to print a hint that the file must be given with --config.
    #[arg(hide = true, conflicts_with = "config")]
    file: Option<PathBuf>,
}

/// Exit code: success; for `run`, all connections ended before the drain timeout.
pub const DONE: u8 = 0;
/// Exit code: runtime failure; for `run`, connections were cut off at the drain timeout.
pub const FAILED: u8 = 1;
/// Exit code: wrong usage, or invalid configuration.
pub const INVALID: u8 = 2;

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match not_built(&error) {
            Some(text) => return fail(&text, INVALID),
            // Exits with code 2, or with 0 after `--help`.
            None => error.exit(),
        },
    };
    match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Run(args) => run::run(args.config),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args),
        Command::Check(CheckArgs {
            file: Some(file), ..
        }) => {
            let file = file.display();
            let usage =
                format!("unexpected argument {file}; use `leastconn-lb check --config {file}`");
            fail(&usage, INVALID)
        }
        Command::Check(args) => check::run(args.config.config),
        Command::Explain(args) => explain::run(args),
        Command::Import(args) => import::run(&args),
        Command::Pki { command } => match pki::run(command) {
            Ok(()) => ExitCode::from(DONE),
            Err(error) => fail(&error, FAILED),
        },
        Command::Ctl(args) => ctl::run(args),
        Command::Healthcheck(args) => healthcheck::run(args),
        #[cfg(feature = "top")]
        Command::Top(args) => top::run(args),
        Command::FleetAcl(args) => fleet_acl::run(args.config),
        Command::Schema { api } => schema::run(api),
        Command::Completions { shell } => {
            completions::print(&completions::script(Cli::command(), shell))
        }
        Command::Man { config: true, .. } => completions::print(&config_manual::manual()),
        Command::Man { dir: None, .. } => completions::print(&completions::manual(Cli::command())),
        Command::Man { dir: Some(dir), .. } => completions::manuals(Cli::command(), &dir),
    }
}

/// The error for a command whose cargo feature was off in the build. clap's "unrecognized
/// subcommand" would suggest a typing error.
fn not_built(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(command)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let is_missing = match command.as_str() {
        "demo" => !cfg!(feature = "demo"),
        "top" => !cfg!(feature = "top"),
        _ => false,
    };
    is_missing.then(|| {
        format!(
            "this build does not include the command `{command}`: it was compiled without the \
             cargo feature `{command}`"
        )
    })
}

/// Prints `error` on standard error and returns `code`.
fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // `eprintln!` would panic if standard error is closed.
    let _ = writeln!(io::stderr(), "leastconn-lb: {error}");
    ExitCode::from(code)
}

/// Loads the configuration for a command that only reads it, and returns it with its path. Prints
/// all problems if the configuration is invalid.
fn load_configuration(path: Option<PathBuf>) -> Result<(PathBuf, Config), String> {
    let path = leastconn_config::find(path).map_err(|error| error.to_string())?;
    match leastconn_config::load_with_expired(&path) {
        Ok(loaded) => Ok((path, loaded.config)),
        Err(problems) => {
            problems.print();
            Err(format!("{}: invalid configuration", path.display()))
        }
    }
}

/// A single-threaded runtime for commands that query a running balancer.
fn runtime() -> Result<tokio::runtime::Runtime, ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| fail(&error, FAILED))
}
