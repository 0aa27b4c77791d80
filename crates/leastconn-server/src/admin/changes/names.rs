//! Errors for names that do not exist, with suggestions.

use axum::http::StatusCode;
use leastconn_config::{suggest, text::escape};
use leastconn_fleet::BlockTarget;

use crate::{admin::response::ApiError, context::ServerContext};

pub(super) fn no_server(context: &ServerContext, upstream: &str, server: &str) -> ApiError {
    let name = format!("{upstream}/{server}");
    let meant = suggest::nearest_server(&name, &servers(context));
    not_found(&name, "server", meant.as_deref())
}

/// The names of all servers, including discovered ones, with those of their upstreams.
pub(super) fn servers(context: &ServerContext) -> Vec<(String, String)> {
    let snapshot = context.snapshot();
    let names = snapshot.pools().flat_map(|pool| {
        let members = pool.members();
        let names = members.iter().map(|member| member.server.id().to_string());
        let names = names.map(|server| (pool.id().to_string(), server));
        names.collect::<Vec<_>>()
    });
    names.collect()
}

pub(super) fn check_client(context: &ServerContext, name: &str) -> Result<(), ApiError> {
    let state = context.snapshot();
    let names = || state.config.clients.iter().map(|rule| rule.name());
    if names().any(|known| known == name) {
        return Ok(());
    }
    Err(not_found(name, "client", suggest::nearest(name, names())))
}

fn not_found(name: &str, what: &str, meant: Option<&str>) -> ApiError {
    let hint = match meant {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; `ctl {what}s` lists them"),
    };
    let name = escape(name);
    ApiError(
        StatusCode::NOT_FOUND,
        format!("there is no {what} `{name}`{hint}"),
    )
}

/// Names the block that is most similar to `target`.
pub(super) fn similar_block<'a>(
    target: &BlockTarget,
    blocks: impl Iterator<Item = &'a BlockTarget>,
) -> String {
    let meant = match target {
        BlockTarget::Identity(identity) => {
            let blocked = blocks.filter_map(|block| match block {
                BlockTarget::Identity(identity) => Some(identity.as_str()),
                BlockTarget::Serial(_) => None,
            });
            suggest::nearest(identity, blocked)
        }
        BlockTarget::Serial(_) => None,
    };
    match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "`ctl blocks` lists all blocks".to_owned(),
    }
}
