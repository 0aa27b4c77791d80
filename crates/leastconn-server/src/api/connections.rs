//! `GET /api/v1/connections`

use std::{cmp::Reverse, sync::Arc, time::Instant};

use jiff::Timestamp;
use leastconn::net;
use leastconn_config::text::escape;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext,
    page::{self, contains, page},
    time,
};
use crate::{registry::ConnectionHandle, telemetry::access_log::milliseconds};

/// Open connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Connections {
    /// The connections that match the query, in its order, up to its limit.
    pub connections: Vec<Connection>,
    /// Number of open connections that match the query.
    pub total: usize,
}

/// An open connection. The field names are those of the access log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// ID, unique within the process.
    pub connection: u64,
    /// Time at which the connection was accepted.
    pub time: String,
    pub stage: Stage,
    pub listener: String,
    /// Client address.
    pub source: String,
    /// Address of the proxy that named `source` in a PROXY header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Matching client rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Client identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Serial number of the client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Requested server name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Connected server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Bytes from the client.
    pub bytes_received: u64,
    /// Bytes to the client.
    pub bytes_sent: u64,
    /// Age.
    pub duration_ms: f64,
}

/// Stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not authorized yet.
    Handshake,
    /// Admitted, not connected to a server yet.
    Connecting,
    /// Connected to a server.
    Relaying,
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Connecting => "connecting",
            Self::Relaying => "relaying",
        }
    }
}

/// Filter and limit of a list of connections. All criteria must match.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionsQuery {
    /// Client rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Upstream such as `web`, or server such as `web/webapp2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Text that an address, client, identity, serial number, server name or server must contain,
    /// ignoring case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// Maximum number of entries; default 1000, at most 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Order of the connections; default: newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<ConnectionOrder>,
}

/// Order of a list of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionOrder {
    #[default]
    Newest,
    Oldest,
    /// Most bytes from the client first.
    Received,
    /// Most bytes to the client first.
    Sent,
}

impl Connections {
    pub fn of(cx: &ApiContext, query: &ConnectionsQuery) -> Self {
        let (now, wall) = (net::now(), Timestamp::now());
        let mut open = cx.context.registry.list();
        match query.sort.unwrap_or_default() {
            ConnectionOrder::Newest => open.sort_unstable_by_key(|handle| Reverse(handle.id)),
            ConnectionOrder::Oldest => open.sort_unstable_by_key(|handle| handle.id),
            // The counts may change during the sort, so they are read once.
            ConnectionOrder::Received => {
                open.sort_by_cached_key(|handle| (Reverse(handle.traffic.received()), handle.id))
            }
            ConnectionOrder::Sent => {
                open.sort_by_cached_key(|handle| (Reverse(handle.traffic.sent()), handle.id))
            }
        }
        let limit = page::limit(query.limit);
        let describe = |handle: &Arc<ConnectionHandle>| Connection::of(handle, now, wall);
        let (connections, total) = if query.is_all() {
            // Describe only the connections that are listed.
            let listed = open.iter().take(limit).map(describe).collect();
            (listed, open.len())
        } else {
            let described = open.iter().map(describe);
            page(
                described.filter(|connection| query.matches(connection)),
                limit,
            )
        };
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
            sort: _,
        } = self;
        [client, listener, server, search]
            .iter()
            .all(|asked| asked.is_none())
    }

    fn matches(&self, connection: &Connection) -> bool {
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
                .is_none_or(|search| connection.contains(search))
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
            identity: state.current_identity().map(|id| escape(id.as_str())),
            serial: handle
                .chain()
                .map(|chain| escape(&chain.certificate.serial)),
            sni: handle.sni().map(escape),
            upstream: state.upstream.as_ref().map(ToString::to_string),
            server: state.server.as_ref().map(|server| server.id().to_string()),
            bytes_received: handle.traffic.received(),
            bytes_sent: handle.traffic.sent(),
            duration_ms: milliseconds(age),
        }
    }

    fn contains(&self, search: &str) -> bool {
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
        contains(texts.into_iter().flatten(), search) || self.connection.to_string() == search
    }
}
