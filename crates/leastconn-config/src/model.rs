//! What the server works with: a configuration in which everything was checked.
//!
//! There is no way from a file to these types but through [`load`](super::load),
//! and nothing in them needs checking again.

mod log;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use leastconn::{
    Balance, Limits, PanicPolicy, RateLimit, ServerId, ServerSpec, UpstreamId,
    health::{ActivePolicy, PassivePolicy},
};

use leastconn_proxy_protocol::Version;
use leastconn_tls::{
    crl::CrlStore,
    pattern::{CnPattern, DnsPattern, ExactText, Spki, UriPattern},
    settings::RecordLayer,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    cidr::{IpNet, Prefixes},
    clients::{Clients, MatchKey},
    tls::{CertificateFile, Tls, UpstreamTls},
};

pub use log::{Access, AccessFilter, Format, Level, Log};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// What concerns the process as a whole.
    pub process: Process,
    /// What is logged, how and where.
    pub log: Log,
    /// The admin side; `None`: there is none.
    pub admin: Option<Admin>,
    /// At least one; names and addresses are distinct.
    pub listeners: Vec<Listener>,
    /// Names are distinct; whatever refers to one exists.
    pub upstreams: Vec<Upstream>,
    /// In the file's order, which is the order they are tried in.
    pub clients: Arc<Clients>,
}

impl Config {
    /// The upstream of this name.
    pub fn upstream(&self, id: &UpstreamId) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.id == *id)
    }

    /// The revocation lists of each `tls` table.
    pub fn revocation_lists(&self) -> Vec<Arc<CrlStore>> {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        listeners
            .map(|tls| Arc::clone(&tls.settings.material.crls))
            .chain(upstreams.map(|tls| Arc::clone(&tls.settings.material.crls)))
            .collect()
    }

    /// Every certificate file and revocation list that is named.
    pub fn certificate_files(&self) -> impl Iterator<Item = &CertificateFile> {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        listeners
            .flat_map(|tls| &*tls.files)
            .chain(upstreams.flat_map(|tls| &*tls.files))
    }

    /// Every file that the configuration is read from: its own, and those that it names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        std::iter::once(self.path.clone())
            .chain(listeners.flat_map(|tls| tls.table.files()))
            .chain(upstreams.flat_map(|tls| tls.table.files()))
    }

    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners
            .iter()
            .find(|listener| &*listener.name == name)
    }
}

/// `[process]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Threads that serve connections.
    pub workers: NonZeroUsize,
    /// It was left to the machine how many.
    pub auto_workers: bool,
    /// Connections at once; `None`: what the limit of open files allows.
    pub max_connections: Option<NonZeroUsize>,
    /// TLS handshakes in progress at once.
    pub max_handshakes: NonZeroUsize,
    /// How long open connections may go on once the process was told to stop.
    pub drain_timeout: Duration,
    /// Memory in use above which no connections are accepted.
    pub memory_limit: MemoryLimit,
    /// Whether the files of `tls` tables are watched.
    pub watch: Watch,
    /// What seals and opens TLS records once a handshake is over.
    pub tls_records: RecordLayer,
    /// Whether the process confines itself; `None`: as far as the kernel can.
    pub sandbox: Option<Sandbox>,
}

/// Memory in use above which no connections are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// 80 % of what the cgroup and the limits of the process allow.
    #[default]
    Auto,
    /// There is none.
    Off,
    /// Resident memory, in bytes; and as with `Auto`, what the limits of the process allow.
    Bytes(u64),
}

/// Whether files are loaded anew when they change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "watch")]
pub enum Watch {
    /// They are.
    #[default]
    On,
    /// Only when the whole configuration is.
    Off,
}

/// Whether the process confines itself to what its configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "sandbox")]
pub enum Sandbox {
    /// It does, or does not start.
    On,
    /// It does not.
    Off,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where the dashboard, metrics and health checks are served; if nowhere, there
    /// is a `socket`.
    pub bind: Option<SocketAddr>,
    /// The Unix socket for `ctl`.
    pub socket: Option<PathBuf>,
    /// What lets requests to `bind` change something; without it, none can.
    pub token: Option<Token>,
    /// Names that `bind` may be reached by, in lower case.
    pub hosts: Vec<String>,
}

/// A bearer token, as its SHA-256: what is not kept cannot be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// The token with this text.
    pub fn new(text: &[u8]) -> Self {
        Self(digest(text))
    }

    /// Whether this is its text. Takes the same time whatever it is.
    pub fn is(&self, text: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &digest(text)).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text);
    digest.copy_from_slice(hash.as_ref());
    digest
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// Addresses that it listens at. At least one, or a path.
    pub binds: Vec<SocketAddr>,
    /// UNIX sockets that it listens at.
    pub unix_binds: Vec<Arc<Path>>,
    /// The mode of their files.
    pub bind_mode: u32,
    /// Tried in order, before `upstream`.
    pub routes: Vec<Route>,
    /// Where connections go that no route takes. Without it and without routes,
    /// the client's own `allow` decides, and was checked to name servers of one
    /// upstream only.
    pub upstream: Option<UpstreamId>,
    /// How long what may take.
    pub timeouts: Timeouts,
    /// Silence before TCP keepalive probes; `None`: none.
    pub keepalive: Option<Duration>,
    /// The age at which a connection is closed, at most; `None`: none.
    pub max_lifetime: Option<Duration>,
    /// What happens when a client certificate runs out while its client is connected.
    pub on_expiry: OnExpiry,
    /// How a TLS end without `close_notify` is passed on.
    pub on_truncation: OnTruncation,
    /// How fast each source may connect; `None`: as fast as it can.
    pub source_rate_limit: Option<SourceRateLimit>,
    /// What comes before the TLS handshake.
    pub starttls: StartTls,
    /// Certificates that a client may send beside its own.
    pub max_intermediates: usize,
    /// Who sends PROXY headers, which must come first; `None`: nobody.
    pub senders: Option<Senders>,
    /// TLS towards clients; `None`: plain TCP.
    pub tls: Option<Tls>,
}

impl Listener {
    /// How sources are told apart.
    pub fn prefixes(&self) -> Prefixes {
        let limit = self.source_rate_limit;
        limit.map_or_else(Prefixes::default, |limit| limit.prefixes)
    }
}

/// What happens when a certificate expires during its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "on_expiry")]
pub enum OnExpiry {
    /// The connection is closed.
    #[default]
    Close,
    /// It goes on.
    Keep,
}

/// How the end of a TLS stream without `close_notify` is passed on to the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "on_truncation")]
pub enum OnTruncation {
    /// By a reset, once all data has been delivered.
    #[default]
    Reset,
    /// As an orderly end.
    Close,
}

impl From<OnTruncation> for leastconn::net::OnTruncation {
    fn from(policy: OnTruncation) -> Self {
        match policy {
            OnTruncation::Reset => Self::Reset,
            OnTruncation::Close => Self::Close,
        }
    }
}

/// Whether clients ask for TLS in their own protocol before the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "starttls")]
pub enum StartTls {
    /// They do not.
    #[default]
    Off,
    /// As PostgreSQL's clients do (SSLRequest).
    Postgres,
}

/// `source_rate_limit` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRateLimit {
    /// For each source.
    pub rate: RateLimit,
    /// What a source is.
    pub prefixes: Prefixes,
}

/// Who may announce clients by PROXY headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Senders {
    /// Whoever connects.
    Anyone,
    /// Who connects from one of these; not empty.
    Only(Vec<IpNet>),
}

impl Senders {
    /// Whether `address` is one of theirs.
    pub fn include(&self, address: IpAddr) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(networks) => networks.iter().any(|network| network.contains(address)),
        }
    }
}

/// One of a listener's `routes`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The server name the client asks for.
    pub sni: DnsPattern,
    /// Where it leads.
    pub upstream: UpstreamId,
}

/// How long the phases of a connection may take. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accepting to having authorized.
    pub handshake: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// The same, once one side has finished sending.
    pub half_close: Duration,
}

/// `[[upstream]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name.
    pub id: UpstreamId,
    /// At least one; names are distinct.
    pub servers: Vec<ServerSpec>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// How long a server that came back, or is new, takes to get its whole share.
    pub slow_start: Duration,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How many further servers are tried when connecting fails.
    pub retries: u32,
    /// How long a connection tries again once all have failed; zero: not at all.
    pub retry_for: Duration,
    /// What happens while no server is available.
    pub panic: PanicPolicy,
    /// Silence before TCP keepalive probes; `None`: none.
    pub keepalive: Option<Duration>,
    /// The PROXY header that servers get; `None`: none.
    pub proxy_protocol: Option<Version>,
    /// Probes; `None`: none.
    pub health_check: Option<HealthCheck>,
    /// What failing connects do to a server.
    pub passive: PassivePolicy,
    /// TLS towards the servers; `None`: plain TCP.
    pub tls: Option<UpstreamTls>,
}

/// `health_check` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What a probe does.
    pub kind: ProbeKind,
    /// The port that is probed; `None`: the server's own.
    pub port: Option<u16>,
    /// Time between two probes of one server.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// How many probes change a server's state.
    pub policy: ActivePolicy,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// It connects, and exchanges what is given.
    Tcp {
        /// Sent first.
        send: Option<Vec<u8>>,
        /// Must then occur in what the server sends.
        expect: Option<Vec<u8>>,
    },
    /// It makes a GET request.
    Http {
        /// The request's target, beginning with `/`.
        path: String,
        /// Which answers are good ones.
        status: StatusSet,
    },
    /// It logs in to MySQL or MariaDB.
    Mysql {
        /// As this user.
        user: String,
    },
    /// It begins a PostgreSQL session.
    Postgres {
        /// As this user.
        user: String,
    },
    /// It sends `PING` to Redis.
    Redis,
}

/// HTTP status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusSet {
    /// 200 to 399.
    Success,
    /// These.
    OneOf(Vec<u16>),
}

impl StatusSet {
    /// Whether an answer with this status is a good one.
    pub fn contains(&self, status: u16) -> bool {
        match self {
            Self::Success => (200..400).contains(&status),
            Self::OneOf(codes) => codes.contains(&status),
        }
    }
}

/// `[[client]]`, by itself. A configuration keeps them [packed](Clients).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Client {
    /// Its name in logs and metrics.
    pub name: String,
    /// The subject's common name.
    pub cn: Vec<CnPattern>,
    /// A DNS name among the subject alternative names.
    pub dns: Vec<DnsPattern>,
    /// A URI among them.
    pub uri: Vec<UriPattern>,
    /// The SHA-256 of the public key.
    pub spki: Vec<Spki>,
    /// An organizational unit of the subject.
    pub ou: Vec<ExactText>,
    /// The issuer's common name.
    pub issuer_cn: Vec<ExactText>,
    /// The address the client connects from.
    pub source: Vec<IpNet>,
    /// What it may reach. Empty: nothing.
    pub allow: Vec<Allow>,
    /// Its limits, with `[defaults.client]` filled in.
    pub limits: Limits,
    /// From when on its rule matches nobody; `None`: never.
    pub expires: Option<Timestamp>,
    /// Whether its rule decides.
    pub mode: Mode,
}

impl Client {
    /// Calls `with` for each text that it asks for under a key.
    pub(super) fn each<'a>(&'a self, key: MatchKey, with: impl FnMut(&'a str)) {
        match key {
            MatchKey::Cn => self.cn.iter().map(CnPattern::as_str).for_each(with),
            MatchKey::Dns => self.dns.iter().map(DnsPattern::as_str).for_each(with),
            MatchKey::Uri => self.uri.iter().map(UriPattern::as_str).for_each(with),
            MatchKey::Spki => self.spki.iter().map(Spki::as_str).for_each(with),
            MatchKey::Ou => self.ou.iter().map(ExactText::as_str).for_each(with),
            MatchKey::IssuerCn => self.issuer_cn.iter().map(ExactText::as_str).for_each(with),
            // Networks are no texts.
            MatchKey::Source => {}
        }
    }
}

/// Whether a rule decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "mode")]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It only says what it would have decided.
    Shadow,
}

impl Mode {
    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// Which servers of one upstream a client may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Granted {
    /// All of them.
    All,
    /// These; not empty.
    Only(Vec<ServerId>),
}

impl Granted {
    /// The servers of `upstream` that a client with this `allow` may reach:
    /// `None` if none, else all of them or those named.
    pub fn of(allow: &[Allow], upstream: &UpstreamId) -> Option<Self> {
        let mut named = Vec::new();
        for allow in allow.iter().filter(|a| a.upstream == *upstream) {
            match &allow.server {
                None => return Some(Self::All),
                Some(server) => named.push(server.clone()),
            }
        }
        (!named.is_empty()).then_some(Self::Only(named))
    }
}

/// One entry of `allow`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Allow {
    /// An upstream that exists.
    pub upstream: UpstreamId,
    /// One server of it; `None`: all of them.
    pub server: Option<ServerId>,
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            None => write!(f, "{}", self.upstream),
            Some(server) => write!(f, "{}/{server}", self.upstream),
        }
    }
}
