//! `ctl`: queries and controls a running balancer over its admin socket.

mod names;
mod show;
mod table;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde::Serialize;

use leastconn::WeightOverride;

use super::{DONE, FAILED, INVALID, fail, healthcheck::no_socket};
use crate::figures;
use leastconn_config::Level;
use leastconn_server::{
    api::{
        ClientOrder, ClientsQuery, ConnectionsQuery, FleetResult, Kill, RefusalsQuery,
        ReloadOutcome, RemoveBlock, ServerState, SetBlock, SetLogLevel, SetState, SetWeight,
        Status,
        client::{Client, ClientError},
    },
    blocks::may_be_decimal,
};
use names::ServerName;
use table::OutputStyle;

#[derive(Debug, Args)]
pub(super) struct CtlArgs {
    /// The admin socket; overrides the configuration.
    #[arg(
        long,
        short,
        value_name = "PATH",
        global = true,
        conflicts_with = "config"
    )]
    socket: Option<PathBuf>,
    /// The configuration file that names the admin socket [default: leastconn.toml,
    /// then /etc/leastconn/leastconn.toml].
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the state of the balancer: version, last reload, runtime overrides, connections,
    /// expiring certificates, listeners and upstreams.
    Status,
    /// List all servers with their state, health and connections.
    Servers,
    /// List the client rules with their connections.
    Clients {
        /// Only rules whose name contains TEXT, ignoring case.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Sort by open connections, most first.
        #[arg(long, alias = "active")]
        open: bool,
        /// Maximum number of rows, up to 10000 [default: 1000].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// List open connections, newest first.
    Connections {
        /// Only connections of this client rule.
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        client: Option<String>,
        /// Only connections to this upstream or server.
        #[arg(long, value_name = "UPSTREAM[/SERVER]", allow_hyphen_values = true)]
        server: Option<String>,
        /// Only connections of this listener.
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        listener: Option<String>,
        /// Only connections with TEXT in an address, a name or an identity.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Maximum number of rows, up to 10000 [default: 1000].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// List the last refused connections, up to 200, newest first.
    Refusals {
        /// Only refusals with TEXT in an address, a name, a reason or a detail.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Maximum number of rows [default: 200].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Send no new connections to a server; open connections continue.
    Drain {
        /// The server, as listed by `ctl servers`.
        #[arg(value_name = "UPSTREAM/SERVER")]
        server: String,
        #[command(flatten)]
        here: HereArgs,
    },
    /// Take a server out of service: send no new connections to it and close open ones
    /// after a grace period.
    Maint {
        /// The server, as listed by `ctl servers`.
        #[arg(value_name = "UPSTREAM/SERVER")]
        server: String,
        #[command(flatten)]
        here: HereArgs,
        /// Grace period for open connections; "0s" closes them immediately [default: 10s].
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
    },
    /// Return a server to service.
    Ready {
        /// The server, as listed by `ctl servers`.
        #[arg(value_name = "UPSTREAM/SERVER")]
        server: String,
        #[command(flatten)]
        here: HereArgs,
    },
    /// Set the weight of a server until it is set to 100% or the balancer is restarted.
    Weight {
        /// The server, as listed by `ctl servers`.
        #[arg(value_name = "UPSTREAM/SERVER")]
        server: String,
        #[command(flatten)]
        here: HereArgs,
        /// A weight, or a percentage of the configured weight; 0 stops new connections, 100%
        /// resets the weight.
        #[arg(value_name = "N|N%")]
        weight: WeightOverride,
    },
    /// Close open connections that match all given filters. In a fleet: on all members.
    Kill {
        #[command(flatten)]
        filter: KillArgs,
        #[command(flatten)]
        here: HereArgs,
    },
    /// Refuse a client and close its connections; in a fleet: on all members.
    #[command(
        after_help = "Example: leastconn-lb ctl block --identity cn:client1.lb.com --for 24h"
    )]
    Block {
        #[command(flatten)]
        target: BlockTarget,
        /// Time until the block expires, such as 24h [default: it does not expire].
        #[arg(long = "for", value_name = "DURATION")]
        duration: Option<String>,
        #[command(flatten)]
        here: HereArgs,
    },
    /// Admit a blocked client again.
    Unblock {
        #[command(flatten)]
        target: BlockTarget,
        #[command(flatten)]
        here: HereArgs,
    },
    /// List blocked clients.
    Blocks,
    /// Show the fleet: its members and the store.
    Fleet,
    /// Reload the configuration, wait for the outcome and print it; exits with 1 if the
    /// configuration was rejected.
    Reload,
    /// Set the log level until it is reset or changed in the configuration file; without
    /// LEVEL, print it.
    LogLevel {
        /// Least severe level to log, or "reset" for the configured level.
        #[arg(value_parser = ["error", "warn", "info", "debug", "trace", "reset"])]
        level: Option<String>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct KillArgs {
    /// Connections of this client rule.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    client: Option<String>,
    /// Connections of this identity, as shown by `ctl connections`: cn:..., dns:..., uri:...
    #[arg(long, value_name = "IDENTITY")]
    identity: Option<String>,
    /// Connections to this server.
    #[arg(long, value_name = "UPSTREAM/SERVER", allow_hyphen_values = true)]
    server: Option<String>,
    /// The connection with this ID, on this balancer.
    #[arg(long, value_name = "ID")]
    connection: Option<u64>,
}

/// Separate from the filters, because clap's group of filters requires at least one of them.
#[derive(Clone, Copy, Debug, Args)]
struct HereArgs {
    /// In a fleet: only on this balancer.
    #[arg(long)]
    here: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct BlockTarget {
    /// The client's identity, as shown by `ctl connections` and `explain`: cn:..., dns:...,
    /// uri:..., spki:..., source:...
    #[arg(long, value_name = "IDENTITY")]
    identity: Option<String>,
    /// The serial number of the client's certificate, in hexadecimal, as shown by `ctl connections`
    /// and `openssl x509 -serial`. `openssl x509 -text` shows short ones as `4096 (0x1000)`: use the
    /// form with 0x.
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
}

/// Exits with 0 on success, 1 on failure, and 2 for wrong usage or a missing socket.
pub(super) fn run(args: CtlArgs) -> ExitCode {
    let socket = match args.socket.map_or_else(|| configured(args.config), Ok) {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let client = Client::at_socket(&socket);
    match runtime.block_on(execute(&client, args.command, args.json)) {
        Ok(code) => ExitCode::from(code),
        Err(CtlError::Client(error)) => {
            let usage =
                matches!(&error, ClientError::Refused { status, .. } if status.as_u16() == 400);
            fail(&error, if usage { INVALID } else { FAILED })
        }
        // `ctl connections | head` is not an error.
        Err(CtlError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::from(DONE)
        }
        Err(CtlError::Output(error)) => fail(&error, FAILED),
        Err(CtlError::NotFound(message)) => fail(&message, FAILED),
        Err(CtlError::Usage(message)) => fail(&message, INVALID),
    }
}

/// Reads the path of the admin socket from the configuration file.
fn configured(path: Option<PathBuf>) -> Result<PathBuf, ExitCode> {
    let path = leastconn_config::find(path).map_err(|error| {
        fail(
            &format!("{error}, or the socket with --socket PATH"),
            INVALID,
        )
    })?;
    let at = leastconn_config::admin_address(&path).map_err(|error| fail(&error, INVALID))?;
    at.socket.ok_or_else(|| {
        let error = at.broken.unwrap_or_else(|| no_socket(&path, at.has_admin));
        fail(&error, INVALID)
    })
}

#[derive(Debug)]
enum CtlError {
    Client(ClientError),
    Output(io::Error),
    /// No item has the given name. Contains the message to print.
    NotFound(String),
    /// An argument is invalid. Contains the message to print.
    Usage(String),
}

impl From<ClientError> for CtlError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for CtlError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

async fn execute(client: &Client, command: Command, json: bool) -> Result<u8, CtlError> {
    let style = OutputStyle::stdout();
    match command {
        Command::Status => {
            let status = client.status().await?;
            print(&status, json, || show::status(&status, &style))
        }
        Command::Servers => {
            let servers = client.servers().await?;
            print(&servers, json, || show::servers(&servers, &style))
        }
        Command::Clients {
            search,
            open,
            limit,
        } => {
            let sort = open.then_some(ClientOrder::Active);
            let query = ClientsQuery {
                search,
                sort,
                limit,
            };
            let clients = client.clients(&query).await?;
            print(&clients, json, || show::clients(&clients, &style))
        }
        Command::Connections {
            client: rule,
            server,
            listener,
            search,
            limit,
        } => {
            let query = ConnectionsQuery {
                client: rule,
                listener,
                server,
                search,
                limit,
                sort: None,
            };
            let connections = client.connections(&query).await?;
            if connections.total == 0
                && let Some(message) = names::unknown(client, &query).await?
            {
                return Err(CtlError::NotFound(message));
            }
            print(&connections, json, || {
                show::connections(&connections, &style)
            })
        }
        Command::Refusals { search, limit } => {
            let query = RefusalsQuery {
                search,
                limit,
                ..RefusalsQuery::default()
            };
            let refusals = client.refusals(&query).await?;
            print(&refusals, json, || show::refusals(&refusals, &style))
        }
        Command::Drain { server, here } => {
            set(client, &server, ServerState::Drain, None, here, json).await
        }
        Command::Maint {
            server,
            here,
            grace,
        } => set(client, &server, ServerState::Maint, grace, here, json).await,
        Command::Ready { server, here } => {
            set(client, &server, ServerState::Ready, None, here, json).await
        }
        Command::Weight {
            server,
            here: HereArgs { here },
            weight,
        } => {
            let ServerName(upstream, server) = names::server(client, &server).await?;
            let change = SetWeight {
                weight: weight.to_string(),
                here,
            };
            let set = client.set_weight(&upstream, &server, &change).await?;
            print(&set, json, || show::weight_set(&set))?;
            complete(set.fleet.as_ref())
        }
        Command::Kill { filter, here } => kill(client, filter, here, json).await,
        Command::Block {
            target: BlockTarget { identity, serial },
            duration,
            here: HereArgs { here },
        } => {
            let block = SetBlock {
                identity,
                serial,
                duration,
                here,
            };
            let set = client.block(&block).await?;
            print(&set, json, || show::blocks::block_set(&set))?;
            if let Some(serial) = block.serial.filter(|serial| may_be_decimal(serial)) {
                writeln!(
                    io::stderr().lock(),
                    "note: the serial number was read as hexadecimal; if {serial} is decimal, as \
                     in `openssl x509 -text`, use the form with 0x"
                )?;
            }
            complete(set.fleet.as_ref())
        }
        Command::Unblock {
            target: BlockTarget { identity, serial },
            here: HereArgs { here },
        } => {
            let block = RemoveBlock {
                identity,
                serial,
                here,
            };
            let removed = client.unblock(&block).await?;
            print(&removed, json, || show::blocks::block_removed(&removed))?;
            complete(removed.fleet.as_ref())
        }
        Command::Blocks => {
            let blocks = client.blocks().await?;
            print(&blocks, json, || show::blocks::blocks(&blocks, &style))
        }
        Command::Fleet => {
            let fleet = client.fleet().await?;
            print(&fleet, json, || show::fleet::fleet(&fleet, &style))
        }
        Command::Reload => reload(client, json).await,
        Command::LogLevel { level: None } => {
            let level = log_level(client.status().await?);
            print(&level, json, || format!("{}\n", level.level))
        }
        Command::LogLevel { level: Some(word) } => {
            let level = Level::ALL.into_iter().find(|level| level.as_str() == word);
            let set = client.set_log_level(&SetLogLevel { level }).await?;
            print(&set, json, || {
                let (level, configured) = (set.level.as_str(), set.configured.as_str());
                if level == configured {
                    format!("{level} (as configured)\n")
                } else {
                    format!("{level} (configured: {configured})\n")
                }
            })
        }
    }
}

/// Output of `log-level` without LEVEL. It has the same keys as the answer to `log-level
/// LEVEL`.
#[derive(Debug, Serialize)]
struct LogLevel {
    level: String,
    configured: String,
}

fn log_level(status: Status) -> LogLevel {
    let level = status.log.level;
    let deviations = status.configuration.deviations.into_iter();
    let configured = deviations
        .filter(|deviation| deviation.what == "log.level")
        .map(|deviation| deviation.configured)
        .next();
    LogLevel {
        configured: configured.unwrap_or_else(|| level.clone()),
        level,
    }
}

async fn set(
    client: &Client,
    server: &str,
    state: ServerState,
    grace: Option<String>,
    HereArgs { here }: HereArgs,
    json: bool,
) -> Result<u8, CtlError> {
    let ServerName(upstream, server) = &names::server(client, server).await?;
    let change = SetState { state, grace, here };
    let set = client.set_state(upstream, server, &change).await?;
    print(&set, json, || show::state_set(&set))?;
    complete(set.fleet.as_ref())
}

async fn kill(
    client: &Client,
    args: KillArgs,
    HereArgs { here }: HereArgs,
    json: bool,
) -> Result<u8, CtlError> {
    if let Some(server) = &args.server {
        names::server(client, server).await?;
    }
    let filter = Kill {
        client: args.client,
        identity: args.identity,
        server: args.server,
        connection: args.connection,
        here,
    };
    let killed = client.kill(&filter).await?;
    print(&killed, json, || {
        let closed = figures::count(killed.killed, "connection");
        match killed.fleet.as_ref().and_then(|fleet| fleet.killed) {
            Some(others) => format!("{closed} closed here, {others} on other members\n"),
            None => format!("{closed} closed\n"),
        }
    })?;
    if let Some(note) = &killed.note {
        writeln!(io::stderr().lock(), "note: {note}")?;
    }
    complete(killed.fleet.as_ref())
}

/// Prints what a command for the fleet has left undone. Returns the exit code.
fn complete(fleet: Option<&FleetResult>) -> Result<u8, CtlError> {
    let Some(incomplete) = fleet.and_then(show::fleet::incomplete) else {
        return Ok(DONE);
    };
    writeln!(io::stderr().lock(), "{incomplete}")?;
    Ok(FAILED)
}

async fn reload(client: &Client, json: bool) -> Result<u8, CtlError> {
    let reload = client.reload().await?;
    if reload.outcome == ReloadOutcome::Applied {
        return print(&reload, json, || "applied\n".to_owned());
    }
    if json {
        print(&reload, true, String::new)?;
    }
    let mut err = io::stderr().lock();
    writeln!(err, "rejected; the running configuration is unchanged:")?;
    for reason in &reload.reasons {
        writeln!(err, "{reason}")?;
    }
    Ok(FAILED)
}

/// Prints an answer as JSON or as text.
fn print(
    answer: &impl Serialize,
    json: bool,
    text: impl FnOnce() -> String,
) -> Result<u8, CtlError> {
    let text = if json {
        let mut json = serde_json::to_string_pretty(answer).map_err(io::Error::from)?;
        json.push('\n');
        json
    } else {
        text()
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::CtlArgs;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        _args: CtlArgs,
    }

    #[test]
    fn names_can_start_with_a_hyphen() {
        for words in [
            ["kill", "--client", "-.example.com"],
            ["kill", "--server", "-web/-s"],
            ["connections", "--client", "-x"],
            ["connections", "--listener", "-x"],
            ["connections", "--server", "-web"],
        ] {
            let parsed = Cli::try_parse_from(["ctl"].iter().chain(&words));
            assert!(parsed.is_ok(), "{words:?}: {parsed:?}");
        }
    }
}
