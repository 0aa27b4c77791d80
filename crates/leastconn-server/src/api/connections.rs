//! `GET /api/v1/connections`

use std::{cmp::Reverse, sync::Arc, time::Instant};

use jiff::Timestamp;
use leastconn::net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Sight, at_most, time};
use crate::{
    access_record::{escape, milliseconds},
    registry::Live,
};

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

/// Which of them, and how many. All that is given must hold.
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
        let mut open = sight.shared.registry.list();
        open.sort_unstable_by_key(|live| Reverse(live.id));
        let limit = at_most(query.limit);
        let mut total = 0;
        let mut connections = Vec::new();
        for live in &open {
            // With nothing asked for, what is not shown need not be made.
            if query.is_all() && connections.len() >= limit {
                total += 1;
                continue;
            }
            let connection = Connection::of(live, now, wall);
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
    fn of(live: &Arc<Live>, now: Instant, wall: Timestamp) -> Self {
        let age = now.saturating_duration_since(live.opened);
        let known = live.known();
        let presented = known.seen.presented.as_ref();
        Self {
            connection: live.id,
            time: time(wall.saturating_sub(age).unwrap_or(wall)),
            stage: match (&known.server, known.epoch) {
                (Some(_), _) => Stage::Relaying,
                (None, Some(_)) => Stage::Connecting,
                (None, None) => Stage::Handshake,
            },
            listener: live.listener.to_string(),
            source: live.shown_source().to_string(),
            proxy: live.shown_proxy().map(|proxy| proxy.to_string()),
            client: known.client().map(ToString::to_string),
            identity: known.identity.as_ref().map(|id| escape(id.as_str())),
            serial: presented.map(|shown| escape(&shown.certificate.serial)),
            sni: known.seen.sni.as_deref().map(escape),
            upstream: known.upstream.as_ref().map(ToString::to_string),
            server: known.server.as_ref().map(ToString::to_string),
            bytes_received: live.traffic.received(),
            bytes_sent: live.traffic.sent(),
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
