//! `explain`: what would happen to a client that shows a certificate, and why.
//!
//! Nothing is decided here. Every step is the one that a connection takes: the
//! listener's own verifier, the reading of names, the rules, the grant and the
//! limiter. This file only asks them, and writes down what they say.

mod account;
mod rules;
mod text;

use std::{
    collections::HashMap,
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
    policy::Policy,
    upstream::Upstream,
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
    let policy = policy(&config)?;
    let asked = Asked {
        chain: &chain,
        source: args.source.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        sni: args.sni.map(|name| name.to_ascii_lowercase()),
        now: Timestamp::now(),
    };
    let account = Account::of(&asked, args.source.is_none(), &policy, &listeners)?;
    let printed = if args.json {
        // A plain struct into memory: this does not fail.
        serde_json::to_string_pretty(&account).unwrap_or_default() + "\n"
    } else {
        text::text(&account)
    };
    Ok((printed, account.admitted))
}

/// The rules, over upstreams that are not connected to or probed.
fn policy(config: &Config) -> Result<Policy, String> {
    let mut upstreams = HashMap::new();
    for upstream in &config.upstreams {
        let resting = config::Upstream {
            health_check: None,
            ..upstream.clone()
        };
        let started = Upstream::start(&resting).map_err(|error| error.to_string())?;
        upstreams.insert(upstream.id.clone(), Arc::new(started));
    }
    Ok(Policy::new(config, &upstreams))
}
