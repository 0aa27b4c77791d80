//! `explain`: what would happen to a client that shows a certificate, and why.
//!
//! Each step is the one that a connection takes: the listener's verifier,
//! [`authorize`](leastconn_server::authorization::authorize) and the limits. Nothing is
//! decided here.

mod account;
mod rules;
mod text;

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use jiff::Timestamp;

use super::{ConfigArgs, DONE, FAILED, INVALID, fail};
use account::{Account, Asked};
use leastconn_server::{
    config::{self, Config},
    snapshot::{Listener, ListenerTls, Snapshot},
    telemetry::metrics::Metrics,
};

/// What is asked about.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// PEM file: the client's certificate, then those above it that it sends.
    #[arg(long, value_name = "FILE", required_unless_present = "source")]
    cert: Option<PathBuf>,
    /// The listener that it connects to [default: each of them].
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The address that it connects from [default: 127.0.0.1].
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// The server name that it asks for.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Ends with 0 if a listener would let the client in, with 1 if none would, and
/// with 2 if that cannot be said.
pub(super) fn run(args: ExplainArgs) -> ExitCode {
    let account = match explain(args) {
        Ok(account) => account,
        Err(error) => return fail(&error, INVALID),
    };
    // A closed pipe changes nothing about the verdict.
    let _ = io::stdout().lock().write_all(account.0.as_bytes());
    ExitCode::from(if account.1 { DONE } else { FAILED })
}

fn explain(args: ExplainArgs) -> Result<(String, bool), String> {
    let path = config::find(args.config.config).map_err(|error| error.to_string())?;
    let config = match config::load_with_expired(&path) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            eprint!("{}", problems.render(config::stderr_has_colours()));
            return Err(format!("{}: cannot be used", path.display()));
        }
    };
    let chain = match &args.cert {
        None => Vec::new(),
        Some(cert) => config::read_certificates(cert)
            .map_err(|error| format!("{}: {error}", cert.display()))?,
    };
    let listeners: Vec<_> = match &args.listener {
        None => config.listeners.iter().collect(),
        Some(name) => vec![config.listener(name).ok_or_else(|| {
            let all = config.listeners.iter().map(|listener| &*listener.name);
            let all: Vec<_> = all.collect();
            format!(
                "there is no listener `{name}`: there are {}",
                all.join(", ")
            )
        })?],
    };
    let names: Vec<_> = listeners
        .iter()
        .map(|listener| Arc::clone(&listener.name))
        .collect();
    let snapshot = snapshot(config.clone(), &names)?;
    let asked = Asked {
        chain: &chain,
        source: args.source.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        sni: args.sni.map(|name| name.to_ascii_lowercase()),
        now: Timestamp::now(),
    };
    let account = Account::of(&asked, args.source.is_none(), &snapshot, &listeners)?;
    let printed = if args.json {
        // A plain struct into memory: this does not fail.
        serde_json::to_string_pretty(&account).unwrap_or_default() + "\n"
    } else {
        text::text(&account)
    };
    Ok((printed, account.admitted))
}

/// A snapshot whose upstreams have no health checks.
fn snapshot(mut config: Config, listeners: &[Arc<str>]) -> Result<Snapshot, String> {
    for upstream in &mut config.upstreams {
        upstream.health_check = None;
    }
    let mut snapshot = Snapshot::start(config).map_err(|error| error.to_string())?;
    let metrics = Metrics::new();
    for name in listeners {
        let Some(config) = snapshot.config.listener(name) else {
            continue;
        };
        let tls = ListenerTls::new(config, snapshot.config.process.tls_records)
            .map_err(|error| error.to_string())?;
        let listener = Listener::new(config, tls, &metrics);
        snapshot
            .listeners
            .insert(Arc::clone(name), Arc::new(listener));
    }
    Ok(snapshot)
}
