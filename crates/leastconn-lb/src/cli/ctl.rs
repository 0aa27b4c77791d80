//! `ctl`: asks and steers a running balancer, over its admin socket.

mod show;
mod table;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{DONE, FAILED, INVALID, fail};
use leastconn_server::{
    api::{
        ClientOrder, ClientsQuery, ConnectionsQuery, Kill, RefusalsQuery, ReloadOutcome, Server,
        ServerState, SetLogLevel, SetState, Status,
        client::{Client, ClientError},
    },
    config::{self, Level, suggest},
    text::escape,
};
use table::Paper;

#[derive(Debug, Args)]
pub(super) struct CtlArgs {
    /// The admin socket, instead of the configuration's.
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
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The balancer as a whole: what it runs, how the last reload went, what differs
    /// from the file, what runs out.
    Status,
    /// All servers, with state, health and connections.
    Servers,
    /// Client rules, and the connections under each.
    Clients {
        /// Only those whose name has this in it, in capitals or not.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Those with the most open connections first.
        #[arg(long, alias = "active")]
        open: bool,
        /// So many at most, up to 10000 [default: 1000].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Open connections, the newest first.
    Connections {
        /// Only those under the rule of this name.
        #[arg(long, value_name = "NAME")]
        client: Option<String>,
        /// Only those to this upstream or server.
        #[arg(long, value_name = "UPSTREAM[/SERVER]")]
        server: Option<String>,
        /// Only those that came in here.
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        /// Only those with this in an address, a name or an identity.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// So many at most, up to 10000 [default: 1000].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// The connections that were refused last, up to 200, the newest first.
    Refusals {
        /// Only those with this in an address, a name, a reason or a detail.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// So many at most [default: 200].
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Give a server no new connections; it keeps those it has.
    Drain {
        /// Which.
        #[arg(value_name = "UPSTREAM/SERVER", value_parser = server_name)]
        server: ServerName,
    },
    /// Give a server no connections, and end those it has after a grace.
    Maint {
        /// Which.
        #[arg(value_name = "UPSTREAM/SERVER", value_parser = server_name)]
        server: ServerName,
        /// How long they may go on; "0s": not at all [default: 10s].
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
    },
    /// Give a server connections again.
    Ready {
        /// Which.
        #[arg(value_name = "UPSTREAM/SERVER", value_parser = server_name)]
        server: ServerName,
    },
    /// End connections. What is given must all hold.
    Kill(KillArgs),
    /// Read the configuration anew, wait, and say what became of it; exits with 1 if
    /// it was rejected.
    Reload,
    /// Set how much is logged, until that is reset or the file's own level changes;
    /// without LEVEL, print it.
    LogLevel {
        /// The least important messages to be written; "reset": as the file says.
        #[arg(value_parser = ["error", "warn", "info", "debug", "trace", "reset"])]
        level: Option<String>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct KillArgs {
    /// Those under the rule of this name.
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Those of this identity, as `ctl connections` shows it: cn:..., dns:..., uri:...
    #[arg(long, value_name = "IDENTITY")]
    identity: Option<String>,
    /// Those to this server.
    #[arg(long, value_name = "UPSTREAM/SERVER", value_parser = server_name)]
    server: Option<ServerName>,
    /// The one of this ID.
    #[arg(long, value_name = "ID")]
    connection: Option<u64>,
}

/// A server, by its upstream's name and its own.
#[derive(Clone, Debug)]
struct ServerName(String, String);

fn server_name(text: &str) -> Result<ServerName, String> {
    match text.split_once('/') {
        Some((upstream, server)) if !upstream.is_empty() && !server.is_empty() => {
            Ok(ServerName(upstream.to_owned(), server.to_owned()))
        }
        _ => Err("write UPSTREAM/SERVER, as `ctl servers` lists them".to_owned()),
    }
}

/// Ends with 0 if it was done, 1 if not, 2 if it could not be asked for.
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
    match runtime.block_on(obey(&client, args.command, args.json)) {
        Ok(code) => ExitCode::from(code),
        Err(Failed::Client(error)) => {
            let usage =
                matches!(&error, ClientError::Refused { status, .. } if status.as_u16() == 400);
            fail(&error, if usage { INVALID } else { FAILED })
        }
        // `ctl connections | head` is no failure.
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::from(DONE)
        }
        Err(Failed::Output(error)) => fail(&error, FAILED),
        Err(Failed::Nothing(what)) => fail(&what, FAILED),
    }
}

/// The configuration's socket.
fn configured(path: Option<PathBuf>) -> Result<PathBuf, ExitCode> {
    let path = config::find(path).map_err(|error| {
        fail(
            &format!("{error}; or the socket itself with --socket PATH"),
            INVALID,
        )
    })?;
    let at = config::admin_at(&path).map_err(|error| fail(&error, INVALID))?;
    at.socket.ok_or_else(|| {
        let why = at.broken.unwrap_or_else(|| {
            format!(
                "{} has no `socket` in its [admin] table, so the balancer cannot be steered; \
                 add `socket = \"leastconn.sock\"` there, and reload or restart it",
                path.display()
            )
        });
        fail(&why, INVALID)
    })
}

#[derive(Debug)]
enum Failed {
    Client(ClientError),
    Output(io::Error),
    /// There is nothing of that name.
    Nothing(String),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

async fn obey(client: &Client, command: Command, json: bool) -> Result<u8, Failed> {
    let paper = Paper::stdout();
    match command {
        Command::Status => {
            let status = client.status().await?;
            print(&status, json, || show::status(&status, &paper))
        }
        Command::Servers => {
            let servers = client.servers().await?;
            print(&servers, json, || show::servers(&servers, &paper))
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
            print(&clients, json, || show::clients(&clients, &paper))
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
            };
            let connections = client.connections(&query).await?;
            if connections.total == 0
                && let Some(nothing) = not_there(client, &query).await?
            {
                return Err(Failed::Nothing(nothing));
            }
            print(&connections, json, || {
                show::connections(&connections, &paper)
            })
        }
        Command::Refusals { search, limit } => {
            let query = RefusalsQuery { search, limit };
            let refusals = client.refusals(&query).await?;
            print(&refusals, json, || show::refusals(&refusals, &paper))
        }
        Command::Drain { server } => set(client, &server, ServerState::Drain, None, json).await,
        Command::Maint { server, grace } => {
            set(client, &server, ServerState::Maint, grace, json).await
        }
        Command::Ready { server } => set(client, &server, ServerState::Ready, None, json).await,
        Command::Kill(which) => {
            let which = Kill {
                client: which.client,
                identity: which.identity,
                server: which
                    .server
                    .map(|ServerName(upstream, server)| format!("{upstream}/{server}")),
                connection: which.connection,
            };
            let killed = client.kill(&which).await?;
            print(&killed, json, || match killed.killed {
                1 => "1 connection was ended\n".to_owned(),
                n => format!("{n} connections were ended\n"),
            })
        }
        Command::Reload => reload(client, json).await,
        Command::LogLevel { level: None } => {
            let level = in_force(client.status().await?);
            print(&level, json, || format!("{}\n", level.level))
        }
        Command::LogLevel { level: Some(word) } => {
            let level = Level::ALL.into_iter().find(|level| level.as_str() == word);
            let set = client.set_log_level(&SetLogLevel { level }).await?;
            print(&set, json, || {
                let (level, configured) = (set.level.as_str(), set.configured.as_str());
                if level == configured {
                    format!("{level}, as the file says\n")
                } else {
                    format!("{level}; the file says {configured}\n")
                }
            })
        }
    }
}

/// What is asked for and not there at all. Nothing is open of it, but whoever waits until
/// a server has no connections left must not be told so of one that he mistyped.
async fn not_there(
    client: &Client,
    query: &ConnectionsQuery,
) -> Result<Option<String>, ClientError> {
    let mut nothing = None;
    let mut look = |asked: &str, what: &str, list: &str, known: &[String]| {
        if !known.iter().any(|known| known == asked) {
            let hint = match suggest::nearest(asked, known.iter().map(String::as_str)) {
                Some(meant) => format!("; did you mean `{meant}`?"),
                None => format!("; `ctl {list}` lists them"),
            };
            nothing = Some(format!("there is no {what} `{}`{hint}", escape(asked)));
        }
    };
    if let Some(asked) = &query.server {
        let servers = client.servers().await?.servers;
        let of = |server: Server| {
            [
                format!("{}/{}", server.upstream, server.server),
                server.upstream,
            ]
        };
        let known: Vec<_> = servers.into_iter().flat_map(of).collect();
        look(asked, "server or upstream", "servers", &known);
    }
    if let Some(asked) = &query.client {
        let like_it = ClientsQuery {
            search: Some(asked.clone()),
            ..ClientsQuery::default()
        };
        let found = client.clients(&like_it).await?;
        // Of those that are not shown, it may be one.
        if found.total == found.clients.len() {
            let known: Vec<_> = found.clients.into_iter().map(|rule| rule.client).collect();
            look(asked, "client", "clients", &known);
        }
    }
    if let Some(asked) = &query.listener {
        let listeners = client.status().await?.listeners;
        let known: Vec<_> = listeners
            .into_iter()
            .map(|listener| listener.name)
            .collect();
        look(asked, "listener", "status", &known);
    }
    Ok(nothing)
}

/// How much is logged, in the form that setting it is answered in.
#[derive(Debug, Serialize)]
struct InForce {
    level: String,
    configured: String,
}

fn in_force(status: Status) -> InForce {
    let level = status.log.level;
    let deviations = status.configuration.deviations.into_iter();
    let by_hand = deviations
        .filter(|deviation| deviation.what == "log.level")
        .map(|deviation| deviation.configured)
        .next();
    InForce {
        configured: by_hand.unwrap_or_else(|| level.clone()),
        level,
    }
}

async fn set(
    client: &Client,
    ServerName(upstream, server): &ServerName,
    state: ServerState,
    grace: Option<String>,
    json: bool,
) -> Result<u8, Failed> {
    let asked = SetState { state, grace };
    let set = client.set_state(upstream, server, &asked).await?;
    print(&set, json, || show::set(&set))
}

async fn reload(client: &Client, json: bool) -> Result<u8, Failed> {
    let done = client.reload().await?;
    if done.outcome == ReloadOutcome::Applied {
        return print(&done, json, || "applied\n".to_owned());
    }
    if json {
        print(&done, true, String::new)?;
    }
    let mut err = io::stderr().lock();
    writeln!(err, "rejected; nothing has changed:")?;
    for reason in &done.reasons {
        writeln!(err, "{reason}")?;
    }
    Ok(FAILED)
}

/// Prints an answer as JSON or as text.
fn print(answer: &impl Serialize, json: bool, text: impl FnOnce() -> String) -> Result<u8, Failed> {
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
