//! `[[upstream]]` and its servers.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    health::{RawHealthCheck, RawPassive},
    tls::RawUpstreamTls,
    value::{At, DurationText, Opt},
};
use crate::defaults::{self, text};

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

/// A server: a table, or its address alone.
#[derive(Debug)]
pub enum ServerEntry {
    /// Its address, which is its name too.
    Address(String),
    /// A table.
    Table(Box<RawServer>),
}

impl<'de> Deserialize<'de> for ServerEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = ServerEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a table")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ServerEntry, E> {
                Ok(ServerEntry::Address(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ServerEntry, A::Error> {
                RawServer::deserialize(MapAccessDeserializer::new(map))
                    .map(|server| ServerEntry::Table(Box::new(server)))
            }
        }
        deserializer.deserialize_any(Forms)
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
