//! Creates the checked configuration from the raw types: converts values, looks up names, loads
//! files, and checks how the tables fit together.
//!
//! Invalid parts are reported and left out. Missing required keys are not reported here,
//! because the schema check has reported them. The result may be used only if no error was
//! reported.

mod admin;
mod client;
mod cross;
mod discovery;
mod fleet;
mod health;
mod listener;
mod process;
mod secret_file;
mod upstream;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use leastconn::{Address, AddressError, ServerId, UpstreamId};

use super::{
    Problems,
    clients::Clients,
    defaults, duration,
    model::{Config, Listener, SourceKind},
    names,
    raw::{
        Raw, RawClientDefaults, RawLog, RawProcess,
        value::{At, DurationText},
    },
    scratch::Scratch,
    shape,
    surroundings::Surroundings,
};

/// Maximum length of a UNIX socket path on Linux, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// The address of a server and its position in the file. [`crate::reachable::check`] uses it
/// to check whether the host name can be resolved.
#[derive(Clone, Debug)]
pub struct AddressUse {
    pub(crate) upstream: UpstreamId,
    pub(crate) server: ServerId,
    pub(crate) address: Address,
    pub(crate) span: Range<usize>,
}

/// A source of servers and its position in the file. It is kept to report later whether the source
/// has servers.
#[derive(Clone, Debug)]
pub struct SourceUse {
    pub upstream: UpstreamId,
    pub kind: SourceKind,
    pub(crate) span: Range<usize>,
}

/// Host names, sources and files that only a look-up can check.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uses {
    pub(crate) addresses: Vec<AddressUse>,
    pub(crate) sources: Vec<SourceUse>,
}

/// Creates the configuration. The result is valid only if `problems` has no error.
pub(crate) fn resolve(
    raw: &Raw,
    path: PathBuf,
    digest: String,
    surroundings: &Surroundings<'_>,
    problems: &mut Problems,
) -> (Config, Uses) {
    let mut resolver = Resolver {
        surroundings,
        problems,
        uses: Uses::default(),
        upstreams: Vec::new(),
        upstream_numbers: HashMap::new(),
        nameless_upstream: false,
        binds: Vec::new(),
        unix_binds: Vec::new(),
    };
    let process = resolver.process(raw.process.as_ref().unwrap_or(&RawProcess::default()));
    let log = resolver.log(raw.log.as_ref().unwrap_or(&RawLog::default()));
    let admin = raw.admin.as_ref().and_then(|admin| resolver.admin(admin));
    let mut upstreams = resolver.all_upstreams(raw.upstream.as_deref().unwrap_or_default());
    for upstream in &mut upstreams {
        upstream.own_zone.clone_from(&process.zone);
    }
    let listeners = resolver.all_listeners(raw.listener.as_deref().unwrap_or_default());
    let fleet = raw.fleet.as_ref();
    let fleet = fleet.and_then(|fleet| resolver.fleet(fleet, &listeners));
    let raw_upstreams = raw.upstream.as_deref().unwrap_or_default();
    resolver.check_protocols(&listeners, &upstreams, raw_upstreams);
    resolver.check_zones(raw, &upstreams);
    // Packing and checking the rules needs temporary memory, so it runs on the scratch
    // heap. The copy below has no spare capacity.
    let checked = Scratch::build(|| resolver.clients_with(&listeners, raw));
    let clients = checked.as_ref().map(Clients::copy).unwrap_or_default();
    drop(checked);
    let config = Config {
        path,
        digest,
        process,
        log,
        admin,
        fleet,
        listeners: listeners
            .into_iter()
            .map(|listener| listener.value)
            .collect(),
        upstreams,
        clients: Arc::new(clients),
    };
    (config, resolver.uses)
}

struct Resolver<'a> {
    surroundings: &'a Surroundings<'a>,
    problems: &'a mut Problems,
    uses: Uses,
    /// All upstreams in the file, including invalid ones.
    upstreams: Vec<Declared>,
    /// Maps the name of each upstream to its index in `upstreams`.
    upstream_numbers: HashMap<String, usize>,
    /// Whether some upstream has no valid name. If so, references to unknown names are not
    /// reported, because they may mean this upstream.
    nameless_upstream: bool,
    /// Addresses of the listeners that were resolved so far.
    binds: Vec<(SocketAddr, Range<usize>)>,
    /// UNIX socket paths of the listeners that were resolved so far.
    unix_binds: Vec<(Arc<Path>, Range<usize>)>,
}

struct Declared {
    name: String,
    span: Range<usize>,
    servers: Vec<String>,
    /// The names in `servers`, as a set.
    server_names: HashSet<String>,
    /// Whether some servers are invalid. If so, references to unknown servers are not
    /// reported, because they may mean an invalid server.
    incomplete: bool,
    used: bool,
}

/// The error for a value whose problem has already been reported.
struct Reported;

/// Whether a duration may be zero.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    Allowed,
    Refused,
}

impl Resolver<'_> {
    /// Resolves the client rules, and performs all checks that involve them.
    fn clients_with(&mut self, listeners: &[At<Listener>], raw: &Raw) -> Clients {
        let defaults = raw.defaults.as_ref();
        let defaults = defaults.and_then(|defaults| defaults.client.as_ref());
        let (clients, places) = self.all_clients(
            raw.client.as_deref().unwrap_or_default(),
            defaults.unwrap_or(&RawClientDefaults::default()),
        );
        if raw.listener.as_ref().is_none_or(Vec::is_empty) && self.nothing_pruned_at_top() {
            self.problems
                .error("there is no `[[listener]]`: no client can connect")
                .help("write a first configuration with `leastconn-lb init`");
        }
        if raw.client.as_ref().is_none_or(Vec::is_empty) && self.nothing_pruned_at_top() {
            self.problems
                .warning("there is no `[[client]]`: all clients will be refused")
                .help(
                    "add a `[[client]]` table with `name`, `match = { cn = \"NAME\" }` and \
                     `allow = [\"UPSTREAM\"]`",
                );
        }
        let complete = self.nothing_pruned_at_top()
            && listeners.len() == raw.listener.as_ref().map_or(0, Vec::len)
            && clients.len() == raw.client.as_ref().map_or(0, Vec::len);
        self.check_across_tables(listeners, &clients, &places, complete);
        if !complete && self.problems.errors() == 0 {
            // An omitted rule without an error is a bug. Report an error here, so that the
            // balancer never runs with fewer rules than the file has.
            self.problems.error(
                "a part of the file was ignored without a report: this is a bug in leastconn",
            );
        }
        clients
    }

    fn nothing_pruned_at_top(&self) -> bool {
        !self.surroundings.pruned.contains(&shape::TOP)
    }

    fn pruned(&self, span: &Range<usize>) -> bool {
        self.surroundings.is_pruned(span)
    }

    fn duration(
        &mut self,
        key: &str,
        value: Option<&At<DurationText>>,
        default: Duration,
        zero: Zero,
    ) -> Duration {
        let Some(At { value, span }) = value else {
            return default;
        };
        match duration::parse(&value.0) {
            Ok(Duration::ZERO) if zero == Zero::Refused => {
                self.problems
                    .error(format!("`{key}` cannot be zero"))
                    .at(span.clone())
                    .help(format!("the default is {:?}", duration::text(default)));
                default
            }
            Ok(duration) => duration,
            Err(error) => {
                self.problems
                    .error(format!("`{key}`: {error}"))
                    .at(span.clone());
                default
            }
        }
    }

    /// Converts the idle time before keepalive probes. `None`: no probes are sent.
    fn keepalive(&mut self, value: Option<&At<DurationText>>) -> Option<Duration> {
        let idle = self.duration("keepalive", value, defaults::KEEPALIVE, Zero::Allowed);
        (!idle.is_zero()).then_some(idle)
    }

    /// Checks a name. Names are used in metric labels and commands.
    fn name(&mut self, of: &str, name: Option<&At<String>>) -> Option<At<Arc<str>>> {
        let At { value, span } = name?;
        self.check_name(of, value, span).then(|| At {
            value: value.as_str().into(),
            span: span.clone(),
        })
    }

    fn check_name(&mut self, of: &str, name: &str, span: &Range<usize>) -> bool {
        let trouble = if name.is_empty() {
            "is empty".to_owned()
        } else if name.len() > names::MAX_LENGTH {
            format!("is longer than {} characters", names::MAX_LENGTH)
        } else if let Some(character) = name.chars().find(|&c| !names::is_allowed(c)) {
            format!("contains {character:?}")
        } else {
            return true;
        };
        self.problems
            .error(format!("the name of the {of} {trouble}"))
            .at(span.clone())
            .help("names consist of letters, digits, `_`, `.` and `-`");
        false
    }

    fn unique<T: AsRef<str> + Eq + Hash>(
        &mut self,
        of: &str,
        name: T,
        span: &Range<usize>,
        seen: &mut HashMap<T, Range<usize>>,
    ) -> bool {
        if let Some(first) = seen.get(&name) {
            self.problems
                .error(format!("there are two {of}s named `{}`", name.as_ref()))
                .at(span.clone())
                .related(first.clone(), "the first");
            return false;
        }
        seen.insert(name, span.clone());
        true
    }

    /// Looks up an upstream by its name.
    fn upstream_named(&mut self, name: &str, span: &Range<usize>) -> Option<UpstreamId> {
        if let Some(&number) = self.upstream_numbers.get(name) {
            self.upstreams[number].used = true;
            return Some(UpstreamId::from(name));
        }
        // Do not report a name that may belong to an upstream with an invalid name or table.
        let unread = self.upstreams.is_empty() && !self.nothing_pruned_at_top();
        if self.nameless_upstream || unread {
            return None;
        }
        // Suggesting a name is expensive, because it compares all names.
        let upstreams = if self.problems.are_many() {
            &[]
        } else {
            &self.upstreams[..]
        };
        let known: Vec<_> = upstreams.iter().map(|known| known.name.clone()).collect();
        let problem = self
            .problems
            .error(format!("there is no upstream named `{name}`"))
            .at(span.clone());
        suggest(problem, name, &known, "the upstreams are");
        None
    }

    fn bind(&mut self, text: &At<&str>) -> Option<SocketAddr> {
        let address = match text.value.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => {
                self.bad_bind(text);
                return None;
            }
        };
        let span = &text.span;
        let clash = self.binds.iter().find(|(other, _)| {
            address.port() != 0
                && other.port() == address.port()
                && (other.ip() == address.ip()
                    || (other.is_ipv4() == address.is_ipv4()
                        && (other.ip().is_unspecified() || address.ip().is_unspecified())))
        });
        if let Some((other, first)) = clash {
            let message = if *other == address {
                format!("{address} is used by two `bind` keys")
            } else {
                format!("{address} and {other} overlap: the second bind would fail")
            };
            self.problems
                .error(message)
                .at(span.clone())
                .related(first.clone(), "the first")
                .help("choose another port for one of them");
            return None;
        }
        self.binds.push((address, span.clone()));
        Some(address)
    }

    fn bad_bind(&mut self, text: &At<&str>) {
        let value = text.value;
        let port = value.rsplit_once(':').map_or(value, |(_, port)| port);
        let host = value.rsplit_once(':').map_or("", |(host, _)| host);
        let bracketed = value
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let (message, help) = if bracketed.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()) {
            let help = format!("write \"{value}:9443\"");
            ("the port is missing".to_owned(), help)
        } else if let Some(bracketed) = Address::bracketed(value) {
            let help = format!("write \"{bracketed}\"");
            (AddressError::UnbracketedV6.to_string(), help)
        } else if value.parse::<Ipv6Addr>().is_ok() {
            // `::1:9443` is a valid IPv6 address without a port, but `9443` is probably meant
            // as the port.
            let help = "write \"[ADDRESS]:PORT\"".to_owned();
            (AddressError::UnbracketedV6.to_string(), help)
        } else if value.parse::<Ipv4Addr>().is_ok() {
            let help = format!("write \"{value}:9443\"");
            ("the port is missing".to_owned(), help)
        } else if port.parse::<u16>().is_ok() && matches!(host, "" | "*") {
            let help = format!(
                "write \"0.0.0.0:{port}\" for all IPv4 addresses, \"[::]:{port}\" for IPv6, \
                 \"127.0.0.1:{port}\" for this machine only"
            );
            ("the address is missing".to_owned(), help)
        } else {
            match value.parse::<Address>() {
                Ok(Address::Name { host, port }) => {
                    let help = if &*host == "localhost" {
                        format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")
                    } else {
                        format!("write the IP address of `{host}`, or \"0.0.0.0:{port}\" for all")
                    };
                    ("`bind` takes an IP address, not a name".to_owned(), help)
                }
                Err(AddressError::MissingPort) => (
                    format!("{value:?} is not an IP address and a port"),
                    "write \"0.0.0.0:9443\"".to_owned(),
                ),
                Err(error) => (error.to_string(), "write \"0.0.0.0:9443\"".to_owned()),
                Ok(Address::Ip(_) | Address::Unix(_)) => return,
            }
        };
        self.problems
            .error(message)
            .at(text.span.clone())
            .help(help);
    }

    /// Resolves a path relative to the configuration file.
    fn path(&self, text: &str) -> PathBuf {
        self.surroundings.base_dir.join(text)
    }
}

/// Adds a similar name, or the list of known names, as help.
fn suggest(problem: &mut super::Problem, name: &str, known: &[String], list_title: &str) {
    match super::suggest::nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => {
            problem.help(format!("did you mean `{meant}`?"));
        }
        None if known.is_empty() => {}
        None => {
            const MOST: usize = 20;
            let mut list: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            let more = list.len().saturating_sub(MOST);
            list.truncate(MOST);
            if more > 0 {
                list.push(format!("{more} more"));
            }
            problem.note(format!("{list_title} {}", list.join(", ")));
        }
    }
}
