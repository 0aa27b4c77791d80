//! Names of servers, clients and listeners in arguments, with suggestions for misspelled names.

use leastconn_config::{suggest, text::escape};
use leastconn_server::api::{
    ClientsQuery, ConnectionsQuery, Servers,
    client::{Client, ClientError},
};

use super::CtlError;

/// Maximum number of client rules from which a name is suggested.
const MAX_CLIENTS: usize = 10_000;

/// Upstream name and server name.
#[derive(Clone, Debug)]
pub(super) struct ServerName(pub(super) String, pub(super) String);

/// Parses UPSTREAM/SERVER. The balancer checks whether there is such a server.
///
/// # Errors
/// [`CtlError::Usage`] with a suggestion, for example if only the name of the server was given.
pub(super) async fn server(client: &Client, written: &str) -> Result<ServerName, CtlError> {
    if let Some((upstream, server)) = written.split_once('/')
        && !upstream.is_empty()
        && !server.is_empty()
    {
        return Ok(ServerName(upstream.to_owned(), server.to_owned()));
    }
    let servers = client.servers().await?;
    let hint = match suggest::nearest_server(written, &pairs(&servers)) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => ", as listed by `ctl servers`".to_owned(),
    };
    let written = escape(written);
    Err(CtlError::Usage(format!(
        "invalid server `{written}`: expected UPSTREAM/SERVER{hint}"
    )))
}

fn pairs(servers: &Servers) -> Vec<(String, String)> {
    let servers = servers.servers.iter();
    servers
        .map(|server| (server.upstream.clone(), server.server.clone()))
        .collect()
}

/// Returns an error message if the query names a server, client or listener that does not
/// exist. Without this check, a script that waits until a server has no connections would
/// succeed on a misspelled name.
pub(super) async fn unknown(
    client: &Client,
    query: &ConnectionsQuery,
) -> Result<Option<String>, ClientError> {
    if let Some(name) = &query.server {
        let servers = pairs(&client.servers().await?);
        let is_known = servers.iter().any(|(upstream, server)| {
            name == upstream || name.split_once('/') == Some((upstream, server))
        });
        if !is_known {
            let upstreams = servers.iter().map(|(upstream, _)| upstream.as_str());
            let upstream = (!name.contains('/')).then(|| suggest::nearest(name, upstreams));
            let meant = upstream.flatten().map(str::to_owned);
            let meant = meant.or_else(|| suggest::nearest_server(name, &servers));
            return Ok(Some(message("server or upstream", name, meant, "servers")));
        }
    }
    if let Some(name) = &query.client
        && let Some(message) = unknown_client(client, name).await?
    {
        return Ok(Some(message));
    }
    if let Some(name) = &query.listener {
        let listeners = client.status().await?.listeners;
        let names = || listeners.iter().map(|listener| listener.name.as_str());
        if !names().any(|known| known == name) {
            let meant = suggest::nearest(name, names()).map(str::to_owned);
            return Ok(Some(message("listener", name, meant, "status")));
        }
    }
    Ok(None)
}

async fn unknown_client(client: &Client, name: &str) -> Result<Option<String>, ClientError> {
    let by_name = ClientsQuery {
        search: Some(name.to_owned()),
        ..ClientsQuery::default()
    };
    let found = client.clients(&by_name).await?;
    // A truncated list does not prove that the client does not exist.
    if found.total != found.clients.len() || found.clients.iter().any(|rule| rule.client == name) {
        return Ok(None);
    }
    // The search does not find similar names.
    let all = ClientsQuery {
        limit: Some(MAX_CLIENTS),
        ..ClientsQuery::default()
    };
    let all = client.clients(&all).await?.clients;
    let meant = suggest::nearest(name, all.iter().map(|rule| rule.client.as_str()));
    Ok(Some(message(
        "client",
        name,
        meant.map(str::to_owned),
        "clients",
    )))
}

fn message(what: &str, name: &str, meant: Option<String>, list: &str) -> String {
    let hint = match meant {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; `ctl {list}` lists them"),
    };
    format!("there is no {what} `{}`{hint}", escape(name))
}
