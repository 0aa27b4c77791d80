//! `explain`: how a client with a given certificate would be handled, and why.
//!
//! `explain` makes no decisions itself. It calls the code that handles connections, in the same
//! order: the certificate verifier, [`authorize`](leastconn_server::authorization::authorize) and
//! the limiter. If the balancer runs, its blocks and the state of its servers apply.

mod explanation;
mod rules;
mod running;
mod text;

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use jiff::Timestamp;
use tokio::{runtime::Runtime, task::JoinSet};

use super::{ConfigArgs, DONE, FAILED, INVALID, fail, load_configuration};
use explanation::{Explanation, Query};
use leastconn_config::{Config, suggest};
use leastconn_server::{
    snapshot::{Listener, ListenerTls, Snapshot},
    telemetry::metrics::Metrics,
};
use running::RunningBalancer;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// PEM file: the client certificate, followed by the intermediate certificates that
    /// the client sends.
    #[arg(long, value_name = "FILE", required_unless_present = "source")]
    cert: Option<PathBuf>,
    /// Listener that the client connects to [default: all listeners].
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Source address of the client [default: 127.0.0.1].
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// Server name (SNI) that the client sends.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Exits with 0 if at least one listener would accept the client, with 1 if none would, and
/// with 2 if the configuration or the arguments are invalid.
pub(super) fn run(args: ExplainArgs) -> ExitCode {
    let (text, admitted) = match explain(args) {
        Ok(result) => result,
        Err(error) => return fail(&error, INVALID),
    };
    // A closed pipe does not change the exit code.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    ExitCode::from(if admitted { DONE } else { FAILED })
}

/// Time limit for discovering servers.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(3);

fn explain(args: ExplainArgs) -> Result<(String, bool), String> {
    let (_, config) = load_configuration(args.config.config)?;
    let chain = match &args.cert {
        None => Vec::new(),
        Some(cert) => leastconn_config::read_certificates(cert)
            .map_err(|error| format!("{}: {error}", cert.display()))?,
    };
    let listeners: Vec<_> = match &args.listener {
        None => config.listeners.iter().collect(),
        Some(name) => vec![config.listener(name).ok_or_else(|| {
            let all = config.listeners.iter().map(|listener| &*listener.name);
            let all: Vec<_> = all.collect();
            match suggest::nearest(name, all.iter().copied()) {
                Some(meant) => {
                    format!("there is no listener `{name}`; did you mean `{meant}`?")
                }
                None => format!(
                    "there is no listener `{name}`; the listeners are {}",
                    all.join(", ")
                ),
            }
        })?],
    };
    let names: Vec<_> = listeners
        .iter()
        .map(|listener| Arc::clone(&listener.name))
        .collect();
    let snapshot = snapshot(config.clone(), &names)?;
    discover(&snapshot)?;
    let running = RunningBalancer::ask(&snapshot)?;
    let query = Query {
        running: running.as_ref(),
        chain: &chain,
        source: args.source.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        sni: args.sni.map(|name| name.to_ascii_lowercase()),
        now: Timestamp::now(),
    };
    let explanation = Explanation::new(&query, args.source.is_none(), &snapshot, &listeners)?;
    let printed = if args.json {
        // Serializing a plain struct to memory cannot fail.
        serde_json::to_string_pretty(&explanation).unwrap_or_default() + "\n"
    } else {
        text::render(&explanation)
    };
    Ok((printed, explanation.admitted))
}

/// Discovers the current servers of all upstreams.
fn discover(snapshot: &Snapshot) -> Result<(), String> {
    let upstreams = snapshot.upstreams.values();
    let upstreams: Vec<_> = upstreams
        .filter(|upstream| upstream.has_sources())
        .collect();
    if upstreams.is_empty() {
        return Ok(());
    }
    runtime()?.block_on(async {
        let mut running = JoinSet::new();
        for upstream in upstreams {
            let upstream = Arc::clone(upstream);
            running.spawn(async move { upstream.discover_once(DISCOVERY_TIMEOUT).await });
        }
        running.join_all().await
    });
    Ok(())
}

fn runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
}

/// Creates a snapshot without health checks, so that no server is dialled.
fn snapshot(mut config: Config, listeners: &[Arc<str>]) -> Result<Snapshot, String> {
    for upstream in &mut config.upstreams {
        upstream.health_check = None;
        upstream.agent_check = None;
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
