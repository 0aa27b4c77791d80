//! The connections that a kill applies to.

use std::fmt;

use leastconn::{ServerId, UpstreamId};
use leastconn_config::text::escape;
use serde::{Deserialize, Serialize};

use crate::registry::ConnectionState;

/// Selects the connections that match all given fields. The filter is also sent to predecessor
/// processes, which may be of another version. A process must reject unknown fields, because a
/// filter without an ignored field would match more connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionFilter {
    /// The name of the rule that allowed the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The client's identity, escaped as it is displayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The names of the upstream and the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<(String, String)>,
    /// The connection's ID, which is unique within one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
}

/// A kill of another member of the fleet, with the keys of `POST /api/v1/connections/kill`. Unknown
/// keys are errors for the same reason as above.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FleetKill {
    client: Option<String>,
    identity: Option<String>,
    server: Option<String>,
}

/// A filter of another member cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the filter of a kill is not understood: {0}; is the member's version different?")]
pub struct InvalidFilter(String);

impl ConnectionFilter {
    /// Parses the filter of a kill that another member of the fleet has sent.
    ///
    /// # Errors
    /// If it has an unknown key, or would match all connections.
    pub fn of_fleet(json: &str) -> Result<Self, InvalidFilter> {
        let kill: FleetKill =
            serde_json::from_str(json).map_err(|error| InvalidFilter(error.to_string()))?;
        let server = match kill.server.as_deref().map(|server| server.split_once('/')) {
            None => None,
            Some(Some((upstream, server))) => Some((upstream.to_owned(), server.to_owned())),
            Some(None) => return Err(InvalidFilter("`server` has no `/`".to_owned())),
        };
        let filter = Self {
            client: kill.client,
            identity: kill.identity,
            server,
            connection: None,
        };
        if filter == Self::default() {
            return Err(InvalidFilter("it is empty".to_owned()));
        }
        Ok(filter)
    }

    pub(super) fn to((upstream, server): &(UpstreamId, ServerId)) -> Self {
        Self {
            server: Some((upstream.to_string(), server.to_string())),
            ..Self::default()
        }
    }

    pub(super) fn matches(&self, id: u64, state: &ConnectionState) -> bool {
        let is_identity = |wanted: &String| {
            let identity = state.current_identity();
            identity.is_some_and(|identity| escape(identity.as_str()) == *wanted)
        };
        self.connection.is_none_or(|wanted| wanted == id)
            && self
                .client
                .as_deref()
                .is_none_or(|wanted| state.client().is_some_and(|client| **client == *wanted))
            && self.server.as_ref().is_none_or(|(upstream, server)| {
                let to = (state.upstream.as_ref(), state.server.as_ref());
                matches!(to, (Some(u), Some(s)) if u.as_str() == upstream && s.id().as_str() == server)
            })
            && self.identity.as_ref().is_none_or(is_identity)
    }
}

impl fmt::Display for ConnectionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.server.as_ref();
        let parts = [
            ("client", self.client.clone()),
            ("identity", self.identity.clone()),
            (
                "server",
                server.map(|(upstream, server)| format!("{upstream}/{server}")),
            ),
            ("ID", self.connection.map(|id| id.to_string())),
        ];
        let shown = parts
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        f.write_str(&shown.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_of_other_members_are_parsed() {
        let filter = ConnectionFilter::of_fleet(r#"{"client":"a","server":"web/web1"}"#).unwrap();
        assert_eq!(filter.to_string(), "client a, server web/web1");
        let filter = ConnectionFilter::of_fleet(r#"{"identity":"cn:a"}"#).unwrap();
        assert_eq!(filter.to_string(), "identity cn:a");
        for invalid in [
            "{}",
            "",
            r#"{"client":null}"#,
            r#"{"client":"a","listener":"main"}"#,
            r#"{"connection":1}"#,
            r#"{"server":"web"}"#,
        ] {
            assert!(ConnectionFilter::of_fleet(invalid).is_err(), "{invalid}");
        }
    }
}
