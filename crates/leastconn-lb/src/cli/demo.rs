//! `demo`: the main job with nothing prepared.
//!
//! Everything is real and on loopback: certificates made on the spot, a
//! configuration file that is read like any other, the balancer, servers,
//! clients that connect by mutual TLS. What the demo says about a connection
//! is what the balancer's own access log says about it.

mod client;
mod output;
mod setup;
mod scenario;
mod web;

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{DONE, FAILED, fail};
use leastconn_server::process::descriptors;

/// What the demo may be told.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after so many seconds [default: go on until Ctrl-C].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
}

/// Anything that can go wrong in the demo, for a person to read.
type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// Runs the demo.
pub fn run(args: &DemoArgs) -> ExitCode {
    descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let shown = runtime.map_err(Trouble::from).and_then(|runtime| {
        let shown = runtime.block_on(show(args.seconds.map(Duration::from_secs)));
        runtime.shutdown_background();
        shown
    });
    match shown {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => fail(&format!("the demo failed: {error}"), FAILED),
    }
}

async fn show(limit: Option<Duration>) -> Result<(), Trouble> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    // The terminal is gone, and with it who was looking.
    let mut hup = signal(SignalKind::hangup())?;
    // Nothing to be done, but not their default action either, which is to end at once.
    let _nothing = [
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
    ];
    let stage = setup::Stage::set().await?;
    let ended = tokio::select! {
        told = scenario::tell(&stage, limit) => told,
        _ = int.recv() => Ok(()),
        _ = term.recv() => Ok(()),
        _ = hup.recv() => Ok(()),
        () = output::reader_gone() => Ok(()),
    };
    // What was shown is summed up even where it was cut short.
    output::summary(&stage);
    stage.strike().await;
    ended
}
