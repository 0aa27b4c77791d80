//! Handlers of `POST` requests under `/api/v1`. The guard has already checked these requests.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
    routing::post,
};
use leastconn::{AdminState, WeightOverride};
use leastconn_config::{duration, suggest, text::escape};
use serde::de::DeserializeOwned;
use tokio::{net::unix::UCred, time::timeout};
use tracing::field::{DisplayValue, display};

use super::{
    response::{ApiError, respond, try_respond},
    serve::Caller,
};
use crate::{
    api::{
        ApiContext, Kill, Killed, LogLevel, Reload, SetLogLevel, SetState, SetWeight, StateSet,
        UpstreamSummary, WeightSet,
    },
    context::ServerContext,
    overrides::{ConnectionFilter, DEFAULT_GRACE, Replaced, SetServerError},
};

/// Logs a change and who requested it.
macro_rules! log_command {
    ($caller:expr, $command:literal $($fields:tt)*) => {{
        let by = $caller.requester();
        tracing::info!(
            command = $command,
            uid = by.uid,
            pid = by.pid,
            source = by.source
            $($fields)*,
            "admin command"
        )
    }};
}

const MAX_BODY: usize = 64 * 1024;

/// Time limit for receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Router<ApiContext> {
    Router::new()
        .route("/servers/{upstream}/{server}/state", post(set_state))
        .route("/servers/{upstream}/{server}/weight", post(set_weight))
        .route("/connections/kill", post(kill))
        .route("/reload", post(reload))
        .route("/log-level", post(set_log_level))
}

/// Log fields of a [`Caller`].
struct Requester {
    uid: Option<u32>,
    pid: Option<i32>,
    source: Option<DisplayValue<SocketAddr>>,
}

impl Caller {
    fn requester(&self) -> Requester {
        let (peer, source) = match self {
            Self::Socket(peer) => (peer.as_ref(), None),
            Self::Address(source) => (None, Some(display(*source))),
        };
        Requester {
            uid: peer.map(UCred::uid),
            pid: peer.and_then(UCred::pid),
            source,
        }
    }
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    parse(&bytes(body).await?)
}

async fn bytes(body: Body) -> Result<Bytes, ApiError> {
    let (status, message) = match timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => return Ok(body),
        Ok(Err(_)) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is incomplete or longer than 64 KiB",
        ),
        Err(_) => (
            StatusCode::REQUEST_TIMEOUT,
            "the body was not received within 10 seconds",
        ),
    };
    Err(ApiError(status, message.to_owned()))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return bad("there is no body; /api/v1/openapi.json describes the expected JSON");
    }
    serde_json::from_slice(body).or_else(|error| bad(&format!("invalid body: {error}")))
}

fn bad<T>(message: &str) -> Result<T, ApiError> {
    Err(ApiError(StatusCode::BAD_REQUEST, message.to_owned()))
}

async fn set_state(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    let Path((upstream, server)) = path.or_else(|error| bad(&error.body_text()))?;
    let request: SetState = read(body).await?;
    let state = AdminState::from(request.state);
    let grace = match &request.grace {
        None => DEFAULT_GRACE,
        Some(_) if state != AdminState::Maint => {
            return bad("`grace` is only valid with `maint`");
        }
        Some(text) => duration::parse(text).or_else(|error| bad(&format!("`grace`: {error}")))?,
    };
    try_respond(move || {
        let context = &cx.context;
        let set =
            context
                .overrides
                .set_server(cx.control.runtime(), (&upstream, &server), state, grace);
        let set = set.map_err(|not_set| not_set_error(context, not_set, &upstream, &server))?;
        log_command!(
            caller,
            "set_server_state",
            upstream,
            server,
            from = set.was.as_str(),
            to = state.as_str()
        );
        let ends = state == AdminState::Maint;
        Ok(StateSet {
            available: available(context, &upstream),
            upstream,
            server,
            state: state.into(),
            was: set.was.into(),
            active: set.active,
            ends_after_seconds: ends.then_some(grace.as_secs_f64()),
        })
    })
    .await
}

async fn set_weight(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    let Path((upstream, server)) = path.or_else(|error| bad(&error.body_text()))?;
    let request: SetWeight = read(body).await?;
    let weight = request.weight.parse();
    let weight: WeightOverride = weight.or_else(|error| bad(&format!("`weight`: {error}")))?;
    try_respond(move || {
        let context = &cx.context;
        let set = context.overrides.set_weight((&upstream, &server), weight);
        let set = set.map_err(|not_set| not_set_error(context, not_set, &upstream, &server))?;
        log_command!(
            caller,
            "set_weight",
            upstream,
            server,
            from = set.was,
            to = set.weight
        );
        Ok(WeightSet {
            available: available(context, &upstream),
            upstream,
            server,
            weight: set.weight,
            was: set.was,
            configured: set.configured,
        })
    })
    .await
}

/// The number of servers of the upstream that can get new connections.
fn available(context: &ServerContext, upstream: &str) -> Option<usize> {
    let snapshot = context.snapshot();
    let upstream = snapshot.upstreams.get(upstream)?;
    Some(UpstreamSummary::of(upstream.pool()).available)
}

fn not_set_error(
    context: &ServerContext,
    error: SetServerError,
    upstream: &str,
    server: &str,
) -> ApiError {
    match error {
        SetServerError::NoSuchServer => no_server(context, upstream, server),
        SetServerError::Replaced => replaced(Replaced),
    }
}

async fn kill(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, ApiError> {
    let request: Kill = read(body).await?;
    try_respond(move || kill_matching(&cx.context, &request, &caller)).await
}

fn kill_matching(
    context: &ServerContext,
    request: &Kill,
    caller: &Caller,
) -> Result<Killed, ApiError> {
    if *request == Kill::default() {
        return bad("name the connections: `client`, `identity`, `server` or `connection`");
    }
    let server = match &request.server {
        None => None,
        Some(written) => {
            let Some((upstream, server)) = written.split_once('/') else {
                let written = escape(written);
                return bad(&format!(
                    "invalid server {written:?}: expected UPSTREAM/SERVER"
                ));
            };
            let to = (upstream.to_owned(), server.to_owned());
            let is_known = context.snapshot().server(upstream, server).is_some()
                // The server was removed from the configuration, but still has connections.
                || context.overrides.has_connections_to(&to);
            if !is_known {
                return Err(no_server(context, upstream, server));
            }
            Some(to)
        }
    };
    if let Some(client) = &request.client {
        check_client(context, client)?;
    }
    let filter = ConnectionFilter {
        client: request.client.clone(),
        identity: request.identity.clone(),
        server,
        connection: request.connection,
    };
    let killed = context.overrides.kill(&filter).map_err(replaced)?;
    if let Some(id) = request.connection.filter(|_| killed == 0) {
        let only = Kill {
            connection: request.connection,
            ..Kill::default()
        };
        let others = if *request == only {
            ""
        } else {
            " that matches all criteria"
        };
        return Err(ApiError(
            StatusCode::NOT_FOUND,
            format!("there is no open connection {id}{others}; `ctl connections` lists them"),
        ));
    }
    log_command!(caller, "kill", filter = %filter, killed);
    Ok(Killed { killed })
}

async fn reload(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, ApiError> {
    // This request has no parameters yet. Reject any parameter, because later versions may define
    // some.
    let body = bytes(body).await?;
    if !body.is_empty() {
        let _: NoParameters = parse(&body)?;
    }
    log_command!(caller, "reload");
    let result = Arc::clone(&cx.control).reload().await;
    let result = Reload::from(result.map_err(replaced)?);
    Ok(respond(move || result).await)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

async fn set_log_level(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, ApiError> {
    let request: SetLogLevel = read(body).await?;
    let context = &cx.context;
    context.overrides.ensure_active().map_err(replaced)?;
    let log = || context.snapshot().config.log.clone();
    // Log the change while the more verbose of the two levels is in effect, so that the message is
    // not filtered out.
    let before = context.overrides.level(&log());
    let name = request
        .level
        .map_or("configured", leastconn_config::Level::as_str);
    let more = request.level.is_some_and(|level| level > before);
    if !more {
        log_command!(caller, "set_log_level", level = name);
    }
    context
        .overrides
        .set_level(request.level)
        .map_err(replaced)?;
    if more {
        log_command!(caller, "set_log_level", level = name);
    }
    let result = LogLevel {
        level: context.overrides.level(&log()),
        configured: log().level,
    };
    Ok(respond(move || result).await)
}

/// Error for requests that reach a process while its successor takes over.
fn replaced(Replaced: Replaced) -> ApiError {
    let message = "a successor process has just taken over: try again";
    ApiError(StatusCode::SERVICE_UNAVAILABLE, message.to_owned())
}

fn no_server(context: &ServerContext, upstream: &str, server: &str) -> ApiError {
    let state = context.snapshot();
    let groups = state.config.upstreams.iter();
    let names: Vec<_> = groups
        .flat_map(|group| {
            let servers = group.servers.iter();
            servers.map(move |server| format!("{}/{}", group.id, server.id))
        })
        .collect();
    let names = names.iter().map(String::as_str);
    not_found(&format!("{upstream}/{server}"), "server", names)
}

fn check_client(context: &ServerContext, name: &str) -> Result<(), ApiError> {
    let state = context.snapshot();
    let names = || state.config.clients.iter().map(|rule| rule.name());
    if names().any(|known| known == name) {
        return Ok(());
    }
    Err(not_found(name, "client", names()))
}

fn not_found<'a>(name: &str, what: &str, known: impl Iterator<Item = &'a str>) -> ApiError {
    let hint = match suggest::nearest(name, known) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; `ctl {what}s` lists them"),
    };
    let name = escape(name);
    ApiError(
        StatusCode::NOT_FOUND,
        format!("there is no {what} `{name}`{hint}"),
    )
}
