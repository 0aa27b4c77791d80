//! `GET /api/v1/connections`

use std::{cmp::Reverse, sync::Arc, time::Instant};

use jiff::Timestamp;
use leastconn::net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Sight, at_most, time};
use crate::{registry::ConnectionHandle, telemetry::access_log::milliseconds, text::escape};

/// Connections that are open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Connections {
    /// The newest first, as many as the limit allows.
    pub connections: Vec<Connection>,
    /// How many there are that match the query.
    pub total: usize,
}

/// One open connection. Names as in the access log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// Its ID, unique within the process.
    pub connection: u64,
    /// When it was accepted.
    pub time: String,
    /// How far it is.
    pub stage: Stage,
    /// Where it came in.
    pub listener: String,
    /// The client's address.
    pub source: String,
    /// The balancer in front, which said that `source` is the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The rule that it is under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Who the client is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The serial number of its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The server name that it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// The server that it is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Bytes from the client.
    pub bytes_received: u64,
    /// Bytes to the client.
    pub bytes_sent: u64,
    /// Its age.
    pub duration_ms: f64,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nobody knows yet whether it may have anything.
    Handshake,
    /// It was admitted, and has no server yet.
    Connecting,
    /// Bytes go through.
    Relaying,
}

impl Stage {
    /// The word in the answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Connecting => "connecting",
            Self::Relaying => "relaying",
        }
    }
}

/// ConnectionFilter of them, and how many. All that is given must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionsQuery {
    /// Only those under the rule of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Only those that came in here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Only those to this upstream, or, as `web/webapp2`, to this server of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Only those with this in one of their texts: address, client, identity, serial,
    /// server name, server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// So many at most; 1000 unless given, and never more than 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Connections {
    /// Those that are open now.
    pub fn of(sight: &Sight, query: &ConnectionsQuery) -> Self {
        let (now, wall) = (net::now(), Timestamp::now());
        let mut open = sight.context.registry.list();
        open.sort_unstable_by_key(|handle| Reverse(handle.id));
        let limit = at_most(query.limit);
        let mut total = 0;
        let mut connections = Vec::new();
        for handle in &open {
            // With nothing asked for, what is not shown need not be made.
            if query.is_all() && connections.len() >= limit {
                total += 1;
                continue;
            }
            let connection = Connection::of(handle, now, wall);
            if query.holds_for(&connection) {
                total += 1;
                if connections.len() < limit {
                    connections.push(connection);
                }
            }
        }
        Self { connections, total }
    }
}

impl ConnectionsQuery {
    fn is_all(&self) -> bool {
        let Self {
            client,
            listener,
            server,
            search,
            limit: _,
        } = self;
        [client, listener, server, search]
            .iter()
            .all(|asked| asked.is_none())
    }

    fn holds_for(&self, connection: &Connection) -> bool {
        fn is(asked: Option<&String>, value: Option<&String>) -> bool {
            asked.is_none_or(|asked| value == Some(asked))
        }
        is(self.client.as_ref(), connection.client.as_ref())
            && is(self.listener.as_ref(), Some(&connection.listener))
            && self.server.as_ref().is_none_or(|asked| {
                let upstream = connection.upstream.as_deref();
                match asked.split_once('/') {
                    None => upstream == Some(asked),
                    Some((group, server)) => {
                        upstream == Some(group) && connection.server.as_deref() == Some(server)
                    }
                }
            })
            && self
                .search
                .as_ref()
                .is_none_or(|search| connection.mentions(&search.to_lowercase()))
    }
}

impl Connection {
    fn of(handle: &Arc<ConnectionHandle>, now: Instant, wall: Timestamp) -> Self {
        let age = now.saturating_duration_since(handle.opened);
        let state = handle.state();
        Self {
            connection: handle.id,
            time: time(wall.saturating_sub(age).unwrap_or(wall)),
            stage: match (&state.server, state.generation) {
                (Some(_), _) => Stage::Relaying,
                (None, Some(_)) => Stage::Connecting,
                (None, None) => Stage::Handshake,
            },
            listener: handle.listener.to_string(),
            source: handle.display_source().to_string(),
            proxy: handle.display_proxy().map(|proxy| proxy.to_string()),
            client: state.client().map(ToString::to_string),
            identity: state.identity.as_ref().map(|id| escape(id.as_str())),
            serial: handle
                .chain()
                .map(|chain| escape(&chain.certificate.serial)),
            sni: handle.sni().map(escape),
            upstream: state.upstream.as_ref().map(ToString::to_string),
            server: state.server.as_ref().map(ToString::to_string),
            bytes_received: handle.traffic.received(),
            bytes_sent: handle.traffic.sent(),
            duration_ms: milliseconds(age),
        }
    }

    fn mentions(&self, lower: &str) -> bool {
        let texts = [
            Some(&self.source),
            self.proxy.as_ref(),
            self.client.as_ref(),
            self.identity.as_ref(),
            self.serial.as_ref(),
            self.sni.as_ref(),
            self.upstream.as_ref(),
            self.server.as_ref(),
        ];
        texts
            .into_iter()
            .flatten()
            .any(|text| text.to_lowercase().contains(lower))
            || self.connection.to_string() == lower
    }
}
