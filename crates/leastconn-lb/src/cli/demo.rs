//! `demo`: a self-contained demonstration on loopback.
//!
//! Creates certificates and a configuration file, and starts the balancer, servers and
//! clients. The outcomes that it prints come from the balancer's access log.

mod client;
mod output;
mod scenario;
mod setup;
mod web;

use std::{num::NonZero, process::ExitCode, thread::available_parallelism, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{DONE, FAILED, fail};
use leastconn_server::process::{descriptors, runtime};

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Exit after this many seconds [default: run until Ctrl-C].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
}

type DemoError = Box<dyn std::error::Error + Send + Sync>;

pub fn run(args: &DemoArgs) -> ExitCode {
    descriptors::raise_limit();
    let workers = available_parallelism().map_or(1, NonZero::get);
    let runtime = runtime::start(workers);
    let shown = runtime.map_err(DemoError::from).and_then(|runtime| {
        let shown = runtime.block_on(show(args.seconds.map(Duration::from_secs)));
        runtime.shutdown_background();
        shown
    });
    match shown {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => fail(&format!("the demo failed: {error}"), FAILED),
    }
}

async fn show(limit: Option<Duration>) -> Result<(), DemoError> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    // SIGHUP is sent when the terminal is closed.
    let mut hup = signal(SignalKind::hangup())?;
    // These signals are caught and ignored: their default action would end the process
    // before it removes its temporary files.
    let _ignored = [
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
    ];
    let environment = setup::Environment::start().await?;
    let ended = tokio::select! {
        result = scenario::run(&environment, limit) => result,
        _ = int.recv() => Ok(()),
        _ = term.recv() => Ok(()),
        _ = hup.recv() => Ok(()),
        () = output::closed() => Ok(()),
    };
    // Print the summary even if the demo was interrupted.
    output::summary(&environment);
    environment.stop().await;
    ended
}
