//! `[[upstream]]` and its servers.

use std::{borrow::Cow, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::{
    discovery::RawDiscovery,
    health::{RawAgentCheck, RawHealthCheck, RawPassive},
    tls::RawUpstreamTls,
    value::{At, DurationText, Form, Opt, TextOrTable},
};
use crate::defaults::{self, text};

/// A group of interchangeable servers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "upstream")]
pub struct RawUpstream {
    /// The upstream's name in logs, metrics and other tables.
    #[schemars(required)]
    pub name: Opt<String>,
    /// The balancing algorithm.
    #[schemars(extend("default" = "least_conn"))]
    pub balance: Opt<Balance>,
    /// Timeout of one attempt to connect to a server.
    #[schemars(extend("default" = text(defaults::CONNECT_TIMEOUT)))]
    pub connect_timeout: Opt<DurationText>,
    /// Number of further servers that are tried when connecting fails.
    #[schemars(range(min = 0, max = 1000), extend("default" = defaults::RETRIES))]
    pub retries: Opt<u32>,
    /// Number of connection attempts in progress at which a server is passed over while another
    /// server is available. 0: no limit.
    #[schemars(range(min = 0), extend("default" = 0))]
    pub max_connecting: Opt<u32>,
    /// How long a connection keeps trying after all servers that it may use have failed or are
    /// unavailable. "0s": it fails immediately.
    #[schemars(extend("default" = text(defaults::RETRY_FOR)))]
    pub retry_for: Opt<DurationText>,
    /// What happens to a connection when no server that it may use is available, but some are
    /// ejected or down.
    #[schemars(extend("default" = "dial"))]
    pub panic: Opt<Panic>,
    /// What happens to a connection when all servers that it may use are at `max_conns`.
    pub queue: Opt<RawQueue>,
    /// Idle time before the kernel sends TCP keepalive probes to the server. "0s": never.
    #[schemars(extend("default" = text(defaults::KEEPALIVE)))]
    pub keepalive: Opt<DurationText>,
    /// Time over which a server that recovered, or was added at run time, ramps up to its full
    /// share of new connections. "0s": no ramp.
    #[schemars(extend("default" = text(Duration::ZERO)))]
    pub slow_start: Opt<DurationText>,
    /// The PROXY protocol header that is sent to servers first, before TLS.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Opt<ProxyProtocolOut>,
    /// Active health checks. Default: a TCP connect every ten seconds.
    pub health_check: Opt<RawHealthCheck>,
    /// Agent checks. Default: none.
    pub agent_check: Option<RawAgentCheck>,
    /// Passive health checks: ejection of servers after failed connects, and of servers that close
    /// connections immediately.
    pub passive: Option<RawPassive>,
    /// Closes some quiet connections on servers that have more than their share. Default: never.
    pub rebalance: Option<RawRebalance>,
    /// TLS with servers.
    pub tls: Opt<RawUpstreamTls>,
    /// How servers are discovered.
    pub discovery: Opt<RawDiscovery>,
    /// The servers. A string S is short for `{ name = S, address = S }`.
    #[schemars(required)]
    pub servers: Opt<Vec<At<ServerEntry>>>,
}

/// The queue for connections whose servers are all at `max_conns`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "queue")]
pub struct RawQueue {
    /// Maximum number of waiting connections. 0: connections do not wait, but are refused.
    #[schemars(range(min = 0, max = 100_000), extend("default" = 0))]
    pub size: Opt<u32>,
    /// Time after which a waiting connection is refused.
    #[schemars(extend("default" = text(defaults::QUEUE_TIMEOUT)))]
    pub timeout: Opt<DurationText>,
}

/// The balancing algorithm.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "balance")]
pub enum Balance {
    /// The server with the fewest connections relative to its weight.
    LeastConn,
    /// The less loaded of two servers that are chosen at random by weight.
    P2c,
    /// Servers in turn, by weight.
    RoundRobin,
    /// A random server, by weight.
    Random,
    /// The same server for each client address.
    SourceHash,
}

impl From<Balance> for leastconn::Balance {
    fn from(balance: Balance) -> Self {
        match balance {
            Balance::LeastConn => Self::LeastConn,
            Balance::P2c => Self::P2c,
            Balance::RoundRobin => Self::RoundRobin,
            Balance::Random => Self::Random,
            Balance::SourceHash => Self::SourceHash,
        }
    }
}

/// What happens to a connection when no server is available.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "panic")]
pub enum Panic {
    /// Ejected servers are dialled or, if there are none, servers that are down.
    Dial,
    /// The connection is refused.
    Refuse,
}

/// The PROXY protocol header that is sent to servers.
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
    /// Version 2 with fields from the client certificate, and with the name that the client's rule
    /// matched.
    V2Tls,
    /// Like "v2-tls", with the client certificate in DER.
    V2TlsFull,
}

/// Which connections are closed so that their clients reconnect to other servers. Only
/// connections of clients with `rebalance = true` are closed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "rebalance")]
pub struct RawRebalance {
    /// Connections are closed on servers that have more than this multiple of their weighted share
    /// of the connections.
    #[schemars(range(min = 1.0), extend("default" = defaults::REBALANCE_ABOVE))]
    pub above: Opt<f64>,
    /// Maximum number of connections that are closed every ten seconds, as a percentage of the
    /// upstream's connections, but at least one.
    #[schemars(extend("default" = defaults::REBALANCE_MOST, "examples" = ["1%"]))]
    pub most: Opt<String>,
    /// Only connections that have transferred no byte for this time are closed.
    #[schemars(extend("default" = text(defaults::REBALANCE_QUIET)))]
    pub quiet: Opt<DurationText>,
}

/// A server of an upstream, or a source of servers. It has exactly one of the keys
/// `address`, `dns`, `srv` and `file`. The other keys are defaults for discovered servers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "server")]
pub struct RawServer {
    /// The server's name in logs and metrics, unique in its upstream. Default: the address.
    pub name: Opt<String>,
    /// Host or IP address and port, or "unix:" and the path of a UNIX socket.
    #[schemars(extend("examples" = ["webapp1:80", "10.0.0.7:80", "unix:/run/app.sock"]))]
    pub address: Opt<String>,
    /// DNS name and port: each address of the name is a server.
    #[schemars(extend("examples" = ["web:80"]))]
    pub dns: Opt<String>,
    /// Name of SRV records: each record is a server.
    #[schemars(extend("examples" = ["_http._tcp.web.default.svc.cluster.local"]))]
    pub srv: Opt<String>,
    /// JSON file with a list of servers. It is read again when it changes.
    #[schemars(extend("examples" = ["web.servers.json"]))]
    pub file: Opt<String>,
    /// The server's share of connections relative to the other servers, 1 to 65535.
    #[schemars(
        range(min = 1, max = 65535),
        extend(
            "default" = 1,
            "x-leastconn-if-zero" = "to stop new connections to a server, drain it",
        )
    )]
    pub weight: Opt<u32>,
    /// Maximum number of connections to the server. 0: no limit.
    #[schemars(range(min = 0), extend("default" = 0))]
    pub max_conns: Opt<u32>,
    /// Whether the server is used only when no other server is available.
    #[schemars(extend("default" = false))]
    pub backup: Opt<bool>,
    /// The server's zone. If `[process]` has the same zone, the server is preferred to servers in
    /// other zones.
    #[schemars(extend("examples" = ["eu-west-1a"]))]
    pub zone: Opt<String>,
}

/// A server: a table, or the address only.
#[derive(Debug)]
pub enum ServerEntry {
    /// The address, which is also the name.
    Address(String),
    Table(Box<RawServer>),
}

impl<'de> Deserialize<'de> for ServerEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(TextOrTable::new("an address or a table"))
            .map(|form| match form {
                Form::Text(address) => Self::Address(address),
                Form::Table(table) => Self::Table(table),
            })
    }
}

impl JsonSchema for ServerEntry {
    fn schema_name() -> Cow<'static, str> {
        "server_entry".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {
                    "title": "address",
                    "description": "Short for `{ name = S, address = S }`.",
                    "type": "string",
                    "examples": ["webapp1:80"],
                },
                generator.subschema_for::<RawServer>(),
            ],
        })
    }
}
