//! The configuration file as it is written: every table and every key of it.
//!
//! The JSON schema comes from these types, and their comments are what it says
//! about each key. The file is checked against that schema before it is read
//! into them, so every field may be missing here: what was wrong has been
//! reported and cut out by then, and what was required and is absent too.

mod source;
pub mod value;
pub mod words;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    defaults::{self, text},
    model::{AccessFilter, Format, Level, Mode, OnExpiry, OnTruncation, Sandbox, StartTls, Watch},
};
pub use source::RawSourceRateLimit;
use value::{At, DateTime, DurationText, OneOrMany, ServerEntry, StatusCodes, Workers};
use words::{ClientAuth, MinVersion, Resumption, TlsRecords};

/// A key that may be absent.
type Opt<T> = Option<At<T>>;

/// The configuration of leastconn-lb.
///
/// Unknown keys are errors. Durations are strings such as "250ms", "10s" or
/// "1h". Relative paths are relative to the file. `${NAME}` and
/// `${NAME:-default}` in strings stand for environment variables; `$$` is a `$`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "leastconn-lb configuration")]
pub struct Raw {
    /// What concerns the process as a whole.
    pub process: Option<RawProcess>,
    /// What is logged, how and where.
    pub log: Option<RawLog>,
    /// The admin side: dashboard, API, metrics, health, `ctl`. Without this table there is none.
    pub admin: Opt<RawAdmin>,
    /// An address that clients connect to.
    pub listener: Option<Vec<At<RawListener>>>,
    /// A group of servers that do the same work.
    pub upstream: Option<Vec<At<RawUpstream>>>,
    /// A client: who it is, what it may reach, and how much of it. Tried in the
    /// file's order, the first that matches decides; no match: refused.
    pub client: Option<Vec<At<RawClient>>>,
    /// What other tables leave out.
    pub defaults: Option<RawDefaults>,
}

/// What concerns the process as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "process")]
pub struct RawProcess {
    /// Threads that serve connections; "auto": one per CPU.
    #[schemars(extend("default" = "auto"))]
    pub workers: Opt<Workers>,
    /// Connections at once, in the whole process. Default: what the limit of open files allows.
    #[schemars(range(min = 1))]
    pub max_connections: Opt<u32>,
    /// TLS handshakes in progress at once.
    #[schemars(range(min = 1), extend("default" = defaults::MAX_HANDSHAKES))]
    pub max_handshakes: Opt<u32>,
    /// How long open connections may go on once the process was told to stop. "0s": not at all.
    #[schemars(extend("default" = text(defaults::DRAIN_TIMEOUT)))]
    pub drain_timeout: Opt<DurationText>,
    /// Memory in use above which no connections are accepted, and those that hold the most
    /// buffered data are ended. "auto": 80 % of what the cgroup or RLIMIT_AS allows. "off":
    /// none.
    #[schemars(
        regex(pattern = "^(auto|off|[0-9]+(B|KiB|MiB|GiB|TiB))$|\\$\\{"),
        extend("default" = "auto", "examples" = ["512MiB"])
    )]
    pub memory_limit: Opt<String>,
    /// Whether certificate, key, authority and revocation list files are watched, and
    /// loaded anew when they change.
    #[schemars(extend("default" = "on"))]
    pub watch: Opt<Watch>,
    /// What seals and opens TLS records once a handshake is over.
    #[schemars(extend("default" = "direct"))]
    pub tls_records: Opt<TlsRecords>,
    /// Whether the process may only touch the files that it needs (Landlock). "on": it
    /// does not start where the kernel cannot do that. Absent: it goes on with a warning.
    pub sandbox: Opt<Sandbox>,
}

/// What is logged, how and where.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "log")]
pub struct RawLog {
    /// The least important messages that are written.
    #[schemars(extend("default" = "info"))]
    pub level: Opt<Level>,
    /// The form of messages.
    #[schemars(extend("default" = "text"))]
    pub format: Opt<Format>,
    /// Where the access log goes: "stdout", "stderr", "off", or a file. One JSON object a connection.
    #[schemars(extend("default" = "stdout"))]
    pub access: Opt<String>,
    /// "identified": the access log leaves out handshakes that failed before the client was known.
    #[schemars(extend("default" = "all"))]
    pub access_filter: Opt<AccessFilter>,
}

/// The admin side: dashboard, API, metrics, health, `ctl`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "admin")]
pub struct RawAdmin {
    /// Address and port. Whoever reaches it can read everything it shows: keep it on loopback.
    #[schemars(extend("examples" = ["127.0.0.1:9901"]))]
    pub bind: Opt<String>,
    /// A Unix socket for `ctl`, mode 0600. Whoever may open it can change everything.
    #[schemars(extend("examples" = ["leastconn.sock"]))]
    pub socket: Opt<String>,
    /// A file with the bearer token that lets requests to `bind` change something.
    /// Without it, only those to `socket` can.
    #[schemars(extend("examples" = ["admin.token"]))]
    pub token: Opt<String>,
    /// Names, beside `localhost` and addresses, that browsers and others may reach
    /// `bind` by.
    #[schemars(extend("examples" = [["lb.internal"]]))]
    pub hosts: Opt<Vec<At<String>>>,
}

/// An address that clients connect to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "listener")]
pub struct RawListener {
    /// Its name in logs and metrics.
    #[schemars(required)]
    pub name: Opt<String>,
    /// Address and port, or "unix:" and the path of a UNIX socket, or a list of them.
    #[schemars(required, extend("examples" = ["0.0.0.0:9443", ["127.0.0.1:9443", "[::1]:9443"], "unix:/run/leastconn/db.sock"]))]
    pub bind: Opt<OneOrMany>,
    /// The mode of the files of UNIX sockets in `bind`, in octal.
    #[schemars(extend("default" = "0600", "examples" = ["0660"]))]
    pub bind_mode: Opt<String>,
    /// The upstream its connections go to, if no route takes them. Without it
    /// and without routes, what the client's `allow` names.
    pub upstream: Opt<String>,
    /// Upstreams by the server name (SNI) that the client asks for, tried in order before `upstream`.
    pub routes: Opt<Vec<At<RawRoute>>>,
    /// One deadline from accepting to having authorized.
    #[schemars(extend("default" = text(defaults::HANDSHAKE_TIMEOUT)))]
    pub handshake_timeout: Opt<DurationText>,
    /// A connection without a byte in either direction for so long is closed.
    #[schemars(extend("default" = text(defaults::IDLE_TIMEOUT)))]
    pub idle_timeout: Opt<DurationText>,
    /// The same, once one side has finished sending.
    #[schemars(extend("default" = text(defaults::HALF_CLOSE_TIMEOUT)))]
    pub half_close_timeout: Opt<DurationText>,
    /// TCP keepalive: silence after which the system asks whether the client is still there; "0s": never.
    #[schemars(extend("default" = text(defaults::KEEPALIVE)))]
    pub keepalive: Opt<DurationText>,
    /// The age at which a connection is closed, jittered by 10 %; "0s": none.
    #[schemars(extend("default" = text(Duration::ZERO)))]
    pub max_lifetime: Opt<DurationText>,
    /// What happens when a client certificate expires while its client is connected.
    #[schemars(extend("default" = "close"))]
    pub on_expiry: Opt<OnExpiry>,
    /// How a TLS end without close_notify, of the client or the server, is passed on
    /// after all data: by a reset, or as an orderly end.
    #[schemars(extend("default" = "reset"))]
    pub on_truncation: Opt<OnTruncation>,
    /// Certificates that a client may send beside its own. One that sends more is refused.
    #[schemars(range(max = 64), extend("default" = defaults::MAX_INTERMEDIATES))]
    pub max_intermediates: Opt<u32>,
    /// Whether a PROXY protocol header (v1 or v2) comes before anything else.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Opt<ProxyProtocolIn>,
    /// Whether clients ask for TLS in their own protocol before the handshake.
    #[schemars(extend("default" = "off"))]
    pub starttls: Opt<StartTls>,
    /// How fast each source may connect, before anything else is looked at. Absent: no limit.
    pub source_rate_limit: Opt<RawSourceRateLimit>,
    /// With "required": the addresses or networks of those who may send such
    /// headers. Anyone else is refused. Default: anyone may, and claim any address.
    #[schemars(extend("examples" = ["10.0.0.0/8", ["10.0.0.5", "10.0.0.6"]]))]
    pub proxy_protocol_from: Opt<OneOrMany>,
    /// TLS towards clients. Without it: plain TCP, and clients are told apart by their address.
    pub tls: Opt<RawTls>,
}

/// One way from a server name to an upstream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "route")]
pub struct RawRoute {
    /// The server name (SNI); `*` stands for one whole label.
    #[schemars(required, extend("examples" = ["db.lb.com", "*.lb.com"]))]
    pub sni: Opt<String>,
    /// The upstream's name.
    #[schemars(required)]
    pub upstream: Opt<String>,
}

/// TLS towards clients.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "tls")]
pub struct RawTls {
    /// PEM file: the server's certificate, then those above it.
    #[schemars(required)]
    pub cert: Opt<String>,
    /// PEM file: the key of that certificate, not encrypted.
    #[schemars(required)]
    pub key: Opt<String>,
    /// PEM file: the authorities whose certificates clients may show. There are no others,
    /// and what is no authority's is ignored.
    pub client_ca: Opt<String>,
    /// Public keys, each as the SHA-256 of its SubjectPublicKeyInfo in hexadecimal, of
    /// clients that need no authority: a certificate that such a client has signed itself
    /// is accepted.
    pub client_pins: Opt<OneOrMany>,
    /// PEM file, or a list of them: revocation lists. One that has expired
    /// refuses all certificates of its issuer.
    pub crl: Opt<OneOrMany>,
    /// The oldest protocol version that is spoken.
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Opt<MinVersion>,
    /// Whether clients must show a certificate.
    #[schemars(extend("default" = "required"))]
    pub client_auth: Opt<ClientAuth>,
    /// Whether clients may go on with a session of an earlier connection. Their chain
    /// is verified again; that they have its key is not proven again.
    #[schemars(extend("default" = "off"))]
    pub resumption: Opt<Resumption>,
    /// With `resumption`, how long after its full handshake a session can be resumed; at most "24h".
    #[schemars(extend("default" = text(defaults::RESUMPTION_LIFETIME)))]
    pub resumption_lifetime: Opt<DurationText>,
    /// Key exchange groups, preferred first. Default: X25519MLKEM768, X25519, P-256, P-384.
    #[schemars(extend("examples" = [["X25519MLKEM768", "X25519", "P-256", "P-384"]]))]
    pub groups: Opt<OneOrMany>,
    /// Cipher suites, preferred first, by the names of IANA or OpenSSL. Default: all.
    #[schemars(extend("examples" = [["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]]))]
    pub ciphers: Opt<OneOrMany>,
    /// Application protocols (ALPN), preferred first. A client that offers only others is refused.
    #[schemars(extend("examples" = [["postgresql"], ["h2", "http/1.1"]]))]
    pub alpn: Opt<OneOrMany>,
}

/// Whether clients announce themselves.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "proxy_protocol_in")]
pub enum ProxyProtocolIn {
    /// They do not.
    Off,
    /// They must.
    Required,
}

/// A group of servers that do the same work.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "upstream")]
pub struct RawUpstream {
    /// Its name in logs, metrics and other tables.
    #[schemars(required)]
    pub name: Opt<String>,
    /// How a server is chosen.
    #[schemars(extend("default" = "least_conn"))]
    pub balance: Opt<Balance>,
    /// How long one attempt to connect to a server may take.
    #[schemars(extend("default" = text(defaults::CONNECT_TIMEOUT)))]
    pub connect_timeout: Opt<DurationText>,
    /// Further servers that are tried when connecting fails.
    #[schemars(range(min = 0, max = 1000), extend("default" = defaults::RETRIES))]
    pub retries: Opt<u32>,
    /// How long a connection waits and tries again once all servers that it may use have
    /// failed or are unavailable; "0s": not at all.
    #[schemars(extend("default" = text(defaults::RETRY_FOR)))]
    pub retry_for: Opt<DurationText>,
    /// What happens to connections while no server that they may use is available, but some
    /// are ejected or down.
    #[schemars(extend("default" = "dial"))]
    pub panic: Opt<Panic>,
    /// TCP keepalive: silence after which the system asks whether the server is still there; "0s": never.
    #[schemars(extend("default" = text(defaults::KEEPALIVE)))]
    pub keepalive: Opt<DurationText>,
    /// How long a server that came back, or was added to a running upstream, takes to get
    /// its whole share of new connections; "0s": none.
    #[schemars(extend("default" = text(Duration::ZERO)))]
    pub slow_start: Opt<DurationText>,
    /// The PROXY protocol header that servers get before anything else, TLS included.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Opt<ProxyProtocolOut>,
    /// Probes that tell whether a server works. Default: a TCP connect every ten seconds.
    pub health_check: Opt<RawHealthCheck>,
    /// What failing connects do to a server.
    pub passive: Option<RawPassive>,
    /// TLS towards the servers.
    pub tls: Opt<RawUpstreamTls>,
    /// Its servers; a string S is short for `{ name = S, address = S }`.
    #[schemars(required)]
    pub servers: Opt<Vec<At<ServerEntry>>>,
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "balance")]
pub enum Balance {
    /// The one with the fewest connections for its weight.
    LeastConn,
    /// The better of two that are drawn by weight.
    P2c,
    /// One after the other, by weight.
    RoundRobin,
    /// Drawn by weight.
    Random,
    /// The same one for each address that clients connect from.
    SourceHash,
}

/// What happens to connections while no server is available.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "panic")]
pub enum Panic {
    /// Ejected servers are dialled, or if there are none, servers that are down.
    Dial,
    /// They are refused.
    Refuse,
}

/// The PROXY protocol header that servers get.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "proxy_protocol_out")]
pub enum ProxyProtocolOut {
    /// None.
    Off,
    /// Version 1, text.
    V1,
    /// Version 2, binary.
    V2,
    /// Version 2 with the client certificate's fields, and the name that its rule matched.
    V2Tls,
    /// The same with the certificate in DER.
    V2TlsFull,
}

/// Probes that tell whether a server works.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "health_check")]
pub struct RawHealthCheck {
    /// What a probe does.
    #[serde(rename = "type")]
    #[schemars(extend("default" = "tcp"))]
    pub kind: Opt<HealthCheckType>,
    /// Time between two probes of a server.
    #[schemars(extend("default" = text(defaults::HEALTH_INTERVAL)))]
    pub interval: Opt<DurationText>,
    /// How long a probe may take.
    #[schemars(extend("default" = text(defaults::HEALTH_TIMEOUT)))]
    pub timeout: Opt<DurationText>,
    /// Good probes in a row that bring a server up.
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::RISE))]
    pub rise: Opt<u32>,
    /// Failed probes in a row that take a server down.
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::FALL))]
    pub fall: Opt<u32>,
    /// The port that is probed. Default: the server's own.
    #[schemars(range(min = 1))]
    pub port: Opt<u16>,
    /// For "tcp": what is sent once connected.
    pub send: Opt<String>,
    /// For "tcp": what must occur in the answer.
    pub expect: Opt<String>,
    /// For "http": what is asked for, beginning with `/`.
    #[schemars(extend("default" = defaults::HEALTH_PATH))]
    pub path: Opt<String>,
    /// For "http": the status or statuses of a good answer. Default: 200 to 399.
    pub status: Opt<StatusCodes>,
    /// For "mysql" and "postgres": the user that logs in, without a password. It need
    /// not exist.
    #[schemars(extend("default" = defaults::HEALTH_USER))]
    pub user: Opt<String>,
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "health_check_type")]
pub enum HealthCheckType {
    /// There are no probes.
    None,
    /// It connects, and may exchange some bytes.
    Tcp,
    /// It makes an HTTP GET request.
    Http,
    /// It logs in to MySQL or MariaDB, which count a connection that ends before as an
    /// error, and then block this host.
    Mysql,
    /// It begins a PostgreSQL session, and ends it.
    Postgres,
    /// It sends `PING` to Redis or Valkey.
    Redis,
}

/// What failing connects do to a server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "passive")]
pub struct RawPassive {
    /// Failed connects within `fail_timeout` that take a server out; 0: never.
    #[schemars(range(min = 0), extend("default" = defaults::MAX_FAILS))]
    pub max_fails: Opt<u32>,
    /// The time in which failures add up, and how long a first ejection lasts. The second
    /// in a row lasts twice as long, and so on, up to five minutes.
    #[schemars(extend("default" = text(defaults::FAIL_TIMEOUT)))]
    pub fail_timeout: Opt<DurationText>,
    /// The part of the upstream's servers that may be ejected at once, 0 to 1; at least one
    /// of two or more, unless it is 0.
    #[schemars(range(min = 0.0, max = 1.0), extend("default" = defaults::MAX_EJECTED))]
    pub max_ejected: Opt<f64>,
}

/// TLS towards the servers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "upstream_tls")]
pub struct RawUpstreamTls {
    /// PEM file: the authorities whose certificates servers may show. There are no others.
    /// Required, unless there is a `pin`.
    pub ca: Opt<String>,
    /// The name, or IP address, that their certificates must be for. Default: each server's own host,
    /// unless there is a `uri` or a `pin`.
    #[schemars(extend("examples" = ["web.internal"]))]
    pub server_name: Opt<String>,
    /// The URI that their certificates must have, such as a SPIFFE ID, or a list of which
    /// one is enough; `*` stands for one whole segment of the path, and `**` at the end
    /// for the rest.
    #[schemars(extend("examples" = ["spiffe://example.org/ns/default/sa/web"]))]
    pub uri: Opt<OneOrMany>,
    /// The SHA-256 of their public key (the SubjectPublicKeyInfo) in hexadecimal, or a list
    /// of which one is enough. Without `ca`, the key alone is what they are known by.
    pub pin: Opt<OneOrMany>,
    /// PEM file: the certificate that is shown to them, then those above it.
    pub cert: Opt<String>,
    /// PEM file: the key of that certificate, not encrypted.
    pub key: Opt<String>,
    /// PEM file, or a list of them: revocation lists. One that has expired
    /// refuses all certificates of its issuer.
    pub crl: Opt<OneOrMany>,
    /// The oldest protocol version that is spoken.
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Opt<MinVersion>,
    /// Key exchange groups, preferred first. Default: X25519MLKEM768, X25519, P-256, P-384.
    #[schemars(extend("examples" = [["X25519MLKEM768", "X25519", "P-256", "P-384"]]))]
    pub groups: Opt<OneOrMany>,
    /// Cipher suites, preferred first, by the names of IANA or OpenSSL. Default: all.
    #[schemars(extend("examples" = [["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]]))]
    pub ciphers: Opt<OneOrMany>,
    /// Application protocols (ALPN) that servers are offered; of these, the one that the client has.
    #[schemars(extend("examples" = [["postgresql"], ["h2", "http/1.1"]]))]
    pub alpn: Opt<OneOrMany>,
}

/// A server of an upstream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "server")]
pub struct RawServer {
    /// Its name in logs and metrics, unique in its upstream. Default: its address.
    pub name: Opt<String>,
    /// Host or IP address, and port; or "unix:" and the path of a UNIX socket.
    #[schemars(required, extend("examples" = ["webapp1:80", "10.0.0.7:80", "unix:/run/app.sock"]))]
    pub address: Opt<String>,
    /// Its share of connections relative to its peers', 1 to 65535.
    #[schemars(
        range(min = 1, max = 65535),
        extend(
            "default" = 1,
            "x-leastconn-if-zero" = "for a server that is to get no new connections, drain it",
        )
    )]
    pub weight: Opt<u32>,
    /// Connections it takes at once; 0: as many as come.
    #[schemars(range(min = 0), extend("default" = 0))]
    pub max_conns: Opt<u32>,
    /// Used only while no server that is not a backup is available.
    #[schemars(extend("default" = false))]
    pub backup: Opt<bool>,
}

/// A client: who it is, what it may reach, and how much of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "client")]
pub struct RawClient {
    /// Its name in logs, metrics and `ctl`.
    #[schemars(required)]
    pub name: Opt<String>,
    /// Who it is. Several keys must all hold; a list means any of its entries.
    #[schemars(required)]
    pub r#match: Opt<RawMatch>,
    /// What it may reach: upstreams ("web"), or single servers of them ("web/webapp2").
    #[schemars(required)]
    pub allow: Opt<OneOrMany>,
    /// How fast it may open connections. Absent: no limit.
    pub rate_limit: Opt<RawRateLimit>,
    /// Connections it may have at once. Absent: no limit.
    #[schemars(
        range(min = 1),
        extend("x-leastconn-if-zero" = "to refuse a client, empty its `allow`")
    )]
    pub max_conns: Opt<u32>,
    /// From when on its rule matches nobody, with an offset from UTC. Absent: never.
    pub expires: Opt<DateTime>,
    /// Whether its rule decides, or only says what it would have decided.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Opt<Mode>,
}

/// Who a client is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "match", extend("minProperties" = 1))]
pub struct RawMatch {
    /// The certificate's common name; `*` stands for one whole label.
    #[schemars(extend("examples" = ["client1.lb.com"]))]
    pub cn: Opt<OneOrMany>,
    /// One of its organizational units, compared as it is.
    #[schemars(extend("examples" = ["payments"]))]
    pub ou: Opt<OneOrMany>,
    /// A DNS name among its alternative names; `*` stands for one whole label.
    #[schemars(extend("examples" = ["*.clients.lb.com"]))]
    pub dns: Opt<OneOrMany>,
    /// A URI among its alternative names; `*` stands for one whole segment of the path,
    /// and `**` at the end for the rest.
    #[schemars(extend("examples" = ["spiffe://example.org/ns/*/sa/web", "https://example.org/users/*"]))]
    pub uri: Opt<OneOrMany>,
    /// The SHA-256 of its public key (the SubjectPublicKeyInfo), in hexadecimal.
    pub spki: Opt<OneOrMany>,
    /// The common name of its issuer, compared as it is.
    pub issuer_cn: Opt<OneOrMany>,
    /// The address the client connects from: an address or a network in CIDR form.
    #[schemars(extend("examples" = ["10.0.0.0/8", ["127.0.0.1", "::1"]]))]
    pub source: Opt<OneOrMany>,
}

/// How fast a client may open connections: a token bucket for each identity.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "rate_limit")]
pub struct RawRateLimit {
    /// New connections a second.
    #[schemars(required)]
    pub rate: Opt<f64>,
    /// How many may come at once. Default: the rate, rounded up.
    #[schemars(range(min = 1))]
    pub burst: Opt<u32>,
}

/// What other tables leave out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "defaults")]
pub struct RawDefaults {
    /// What `[[client]]` tables leave out.
    pub client: Option<RawClientDefaults>,
}

/// What `[[client]]` tables leave out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "client_defaults")]
pub struct RawClientDefaults {
    /// How fast a client may open connections.
    pub rate_limit: Opt<RawRateLimit>,
    /// Connections a client may have at once.
    #[schemars(range(min = 1))]
    pub max_conns: Opt<u32>,
}
