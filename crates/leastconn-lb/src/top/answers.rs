//! What `top` requests from the balancer, and what the balancer answers.

use leastconn_server::api::{
    ClientOrder, Clients, ClientsQuery, Connections, ConnectionsQuery, Samples, Servers, Status,
};

/// Maximum number of rows per table: more than a terminal has lines.
const MAX_ROWS: usize = 500;

/// One answer of each API endpoint.
#[derive(Clone, Debug)]
pub struct Answers {
    /// `/api/v1/status`
    pub status: Status,
    /// `/api/v1/servers`
    pub servers: Servers,
    /// `/api/v1/clients`
    pub clients: Clients,
    /// `/api/v1/connections`
    pub connections: Connections,
    /// `/api/v1/history`
    pub history: Samples,
}

/// Filters and row limits of the requests.
#[derive(Clone, Debug)]
pub struct Query {
    pub clients: ClientsQuery,
    pub connections: ConnectionsQuery,
}

impl Query {
    pub(super) fn search(text: &str) -> Self {
        let search = (!text.is_empty()).then(|| text.to_owned());
        Self {
            clients: ClientsQuery {
                search: search.clone(),
                sort: Some(ClientOrder::Active),
                limit: Some(MAX_ROWS),
            },
            connections: ConnectionsQuery {
                search,
                limit: Some(MAX_ROWS),
                ..ConnectionsQuery::default()
            },
        }
    }
}
