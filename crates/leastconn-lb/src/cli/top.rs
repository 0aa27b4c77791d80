//! `top`: a live view of a running balancer.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use super::{DONE, FAILED, INVALID, fail, healthcheck};
use crate::top::{self, Answers, Query};
use leastconn_config::AdminAddress;
use leastconn_server::api::client::{Client, ClientError, Target};

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// The admin socket; overrides the configuration.
    #[arg(long, short, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration file that names the admin socket or address [default:
    /// leastconn.toml, then /etc/leastconn/leastconn.toml].
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Refresh interval.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = leastconn_config::duration::parse(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(100) {
        return Err("must be at least 100ms".to_owned());
    }
    Ok(interval)
}

pub(super) fn run(args: TopArgs) -> ExitCode {
    let given = args.socket.map(|path| Ok(Target::Socket(path)));
    let target = match given.unwrap_or_else(|| configured(args.config)) {
        Ok(target) => target,
        Err(code) => return code,
    };
    if !io::stdout().is_terminal() {
        return fail(
            &"top needs a terminal; use `leastconn-lb ctl status --json` in scripts",
            INVALID,
        );
    }
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let client = Client::new(target);
    let fetch = move |query: &Query| {
        let answers = runtime.block_on(fetch(&client, query));
        answers.map_err(|error| error.to_string())
    };
    match top::run(fetch, args.interval) {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => fail(&error, FAILED),
    }
}

/// Returns the configured admin socket or, if there is none, the admin address. The socket is
/// preferred because it needs no token.
fn configured(path: Option<PathBuf>) -> Result<Target, ExitCode> {
    let path = leastconn_config::find(path).map_err(|error| fail(&error, INVALID))?;
    match leastconn_config::admin_address(&path).map_err(|error| fail(&error, INVALID))? {
        AdminAddress {
            socket: Some(path), ..
        } => Ok(Target::Socket(path)),
        AdminAddress {
            bind: Some(address),
            ..
        } => Ok(healthcheck::connectable(address)),
        AdminAddress { broken, .. } => Err(healthcheck::no_admin(&path, broken)),
    }
}

async fn fetch(client: &Client, query: &Query) -> Result<Answers, ClientError> {
    let (status, servers, clients, connections, history) = tokio::try_join!(
        client.status(),
        client.servers(),
        client.clients(&query.clients),
        client.connections(&query.connections),
        client.history(),
    )?;
    Ok(Answers {
        status,
        servers,
        clients,
        connections,
        history,
    })
}
