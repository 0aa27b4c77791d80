//! Handlers of `POST` requests under `/api/v1`. The guard has already checked these requests.

mod names;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
    routing::post,
};
use jiff::Timestamp;
use leastconn::{AdminState, WeightOverride};
use leastconn_config::{duration, suggest, text::escape};
use leastconn_fleet::{BlockTarget, Command};
use serde::de::DeserializeOwned;
use tokio::{net::unix::UCred, time::timeout};
use tracing::field::{DisplayValue, display};

use super::{
    response::{ApiError, respond, run_blocking, try_respond},
    serve::Caller,
};
use crate::{
    api::{
        ApiContext, Block, BlockRemoved, BlockSet, FleetResult, Kill, Killed, LogLevel, Reload,
        RemoveBlock, SetBlock, SetLogLevel, SetState, SetWeight, StateSet, UpstreamSummary,
        WeightSet, target,
    },
    blocks::{display_serial, normalize_identity, unmatched},
    context::ServerContext,
    overrides::{
        BlockError, ConnectionFilter, DEFAULT_GRACE, Origin, Replaced, SetServerError, WeightChange,
    },
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
        .route("/blocks", post(block))
        .route("/blocks/remove", post(unblock))
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

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
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
    let context = &cx.context;
    let name = (&*upstream, &*server);
    let was = context.overrides.server_state(name);
    let was = was.map_err(|not_set| not_set_error(context, not_set, &upstream, &server))?;
    let command = || Command::State {
        upstream: upstream.clone(),
        server: server.clone(),
        state: state.as_str().to_owned(),
        grace,
    };
    let fleet = send(context, request.here, command).await;
    try_respond(move || {
        let context = &cx.context;
        let (runtime, overrides) = (cx.control.runtime(), &context.overrides);
        overrides.ensure_active().map_err(replaced)?;
        // Log this first: the change may make the last server unavailable, which is logged too.
        log_command!(
            caller,
            "set_server_state",
            upstream,
            server,
            from = was.as_str(),
            to = state.as_str(),
            set_for = set_for(fleet.as_ref())
        );
        let name = (&*upstream, &*server);
        let set = if is_sent(fleet.as_ref()) {
            overrides.follow_fleet(runtime, name)
        } else {
            let set = overrides.set_server(runtime, name, state, grace);
            set.map(|set| set.active)
        };
        let set = set.map_err(|not_set| not_set_error(context, not_set, &upstream, &server))?;
        let ends = state == AdminState::Maint;
        Ok(StateSet {
            available: available(context, &upstream),
            upstream,
            server,
            state: state.into(),
            was: was.into(),
            active: set,
            ends_after_seconds: ends.then_some(grace.as_secs_f64()),
            fleet,
        })
    })
    .await
}

/// Sends a command to the fleet. Returns `None` if the balancer is not a member of a fleet, or if
/// `here` is set.
async fn send(
    context: &ServerContext,
    here: bool,
    command: impl FnOnce() -> Command,
) -> Option<FleetResult> {
    let handle = context.fleet.get().filter(|_| !here)?;
    let sent = handle.send(command()).await;
    if let Err(error) = &sent {
        tracing::warn!(%error, "command not sent to the fleet: carried out on this balancer only");
    }
    Some(FleetResult::sent(sent))
}

fn is_sent(fleet: Option<&FleetResult>) -> bool {
    fleet.is_some_and(|result| result.error.is_none())
}

/// The log field that says which balancers a command was carried out on. `None` without a fleet.
fn set_for(fleet: Option<&FleetResult>) -> Option<&'static str> {
    fleet.map(|result| match result.error {
        None => Origin::Fleet.as_str(),
        Some(_) => Origin::Here.as_str(),
    })
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
    let context = &cx.context;
    let before = context.overrides.server_weight((&upstream, &server));
    let before = before.map_err(|not_set| not_set_error(context, not_set, &upstream, &server))?;
    let command = || Command::Weight {
        upstream: upstream.clone(),
        server: server.clone(),
        weight: weight.to_string(),
    };
    let fleet = send(context, request.here, command).await;
    try_respond(move || {
        let context = &cx.context;
        let overrides = &context.overrides;
        let name = (&*upstream, &*server);
        let set = if is_sent(fleet.as_ref()) {
            let followed = overrides.follow_fleet(cx.control.runtime(), name);
            let after = followed.and_then(|_| overrides.server_weight(name));
            after.map(|after| WeightChange {
                was: before.weight,
                ..after
            })
        } else {
            overrides.set_weight(name, weight)
        };
        let set = set.map_err(|not_set| not_set_error(context, not_set, &upstream, &server))?;
        log_command!(
            caller,
            "set_weight",
            upstream,
            server,
            from = set.was,
            to = set.weight,
            set_for = set_for(fleet.as_ref())
        );
        Ok(WeightSet {
            available: available(context, &upstream),
            upstream,
            server,
            weight: set.weight,
            was: set.was,
            configured: set.configured,
            fleet,
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
        SetServerError::NoSuchServer => names::no_server(context, upstream, server),
        SetServerError::Replaced => replaced(Replaced),
    }
}

async fn kill(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, ApiError> {
    let mut request: Kill = read(body).await?;
    // A kill applies to no connection if its identity is invalid.
    if let Some(identity) = &mut request.identity
        && let Ok(normal) = normalize_identity(identity)
    {
        *identity = normal;
    }
    // A connection ID is unique only within one process.
    let handle = cx.context.fleet.get();
    let handle = handle.filter(|_| !request.here && request.connection.is_none());
    let filter = serde_json::to_string(&request).unwrap_or_default();
    let context = Arc::clone(&cx.context);
    let mut killed = run_blocking(move || kill_matching(&context, &request, &caller)).await??;
    if let Some(handle) = handle {
        let report = handle.kill(filter).await;
        match &report {
            Ok(report) if report.missing.is_empty() => {}
            Ok(report) => tracing::warn!(
                members = report.missing.join(" "),
                "members of the fleet have not acknowledged a kill"
            ),
            Err(error) => {
                tracing::warn!(%error, "kill not sent to the fleet: carried out on this balancer only");
            }
        }
        killed.fleet = Some(FleetResult::killed(report));
    }
    Ok(respond(move || killed).await)
}

async fn block(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, ApiError> {
    let request: SetBlock = read(body).await?;
    let target = target(request.identity.as_deref(), request.serial.as_deref());
    let target = target.or_else(|error| bad(&error))?;
    let duration = match request.duration.as_deref() {
        None => None,
        Some(text) => match duration::parse(text) {
            Ok(Duration::ZERO) => {
                return bad("`for` cannot be zero; `ctl unblock` removes a block");
            }
            Ok(duration) => Some(duration),
            Err(error) => return bad(&format!("`for`: {error}")),
        },
    };
    // Block the client here first, so that it is refused even while the store does not answer.
    let (context, for_here) = (Arc::clone(&cx.context), target.clone());
    let set = run_blocking(move || context.overrides.block(for_here, duration)).await?;
    let set = set.map_err(|error| match error {
        BlockError::Replaced => replaced(Replaced),
        BlockError::TooMany => ApiError(
            StatusCode::CONFLICT,
            "there are too many blocks; refuse clients with rules in the configuration instead"
                .to_owned(),
        ),
    })?;
    let command = || Command::Block {
        target: target.clone(),
        duration,
    };
    let fleet = send(&cx.context, request.here, command).await;
    try_respond(move || {
        let context = &cx.context;
        let mut block = set.block;
        if is_sent(fleet.as_ref()) {
            // The fleet's block replaces this balancer's own block.
            context.overrides.unblock(&block.target).map_err(replaced)?;
            block.origin = Origin::Fleet;
        }
        let snapshot = context.snapshot();
        let note = match &block.target {
            BlockTarget::Identity(identity) => {
                unmatched(identity, &snapshot.config.clients, Timestamp::now())
            }
            BlockTarget::Serial(_) => None,
        };
        let block = Block::of(block, snapshot.config.fleet.is_some());
        log_command!(
            caller,
            "block",
            identity = block.identity,
            serial = block.serial,
            until = block.until,
            killed = set.killed,
            set_for = set_for(fleet.as_ref())
        );
        Ok(BlockSet {
            block,
            killed: set.killed,
            note,
            fleet,
        })
    })
    .await
}

async fn unblock(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, ApiError> {
    let request: RemoveBlock = read(body).await?;
    let target = target(request.identity.as_deref(), request.serial.as_deref());
    let target = target.or_else(|error| bad(&error))?;
    let blocks = cx.context.overrides.blocks();
    let of_target: Vec<_> = blocks
        .iter()
        .filter(|block| block.target == target)
        .collect();
    if of_target.is_empty() {
        let shown = match &target {
            BlockTarget::Identity(identity) => format!("identity `{}`", escape(identity)),
            BlockTarget::Serial(serial) => format!("serial number {}", display_serial(serial)),
        };
        return Err(ApiError(
            StatusCode::NOT_FOUND,
            format!(
                "{shown} is not blocked; {}",
                names::similar_block(&target, blocks.iter().map(|block| &block.target))
            ),
        ));
    }
    if request.here && of_target.iter().all(|block| block.origin == Origin::Fleet) {
        return Err(ApiError(
            StatusCode::CONFLICT,
            "the client is blocked for the whole fleet: unblock it without `here`".to_owned(),
        ));
    }
    cx.context.overrides.ensure_active().map_err(replaced)?;
    let command = || Command::Unblock {
        target: target.clone(),
    };
    let fleet = send(&cx.context, request.here, command).await;
    try_respond(move || {
        cx.context.overrides.unblock(&target).map_err(replaced)?;
        let removed = BlockRemoved::of(target, fleet);
        log_command!(
            caller,
            "unblock",
            identity = removed.identity,
            serial = removed.serial,
            set_for = set_for(removed.fleet.as_ref())
        );
        Ok(removed)
    })
    .await
}

fn kill_matching(
    context: &ServerContext,
    request: &Kill,
    caller: &Caller,
) -> Result<Killed, ApiError> {
    let unfiltered = Kill {
        here: request.here,
        ..Kill::default()
    };
    if *request == unfiltered {
        return bad("specify the connections: `client`, `identity`, `server` or `connection`");
    }
    let server = match &request.server {
        None => None,
        Some(written) => {
            let Some((upstream, server)) = written.split_once('/') else {
                let meant = suggest::nearest_server(written, &names::servers(context));
                let meant = meant.map(|meant| format!("; did you mean `{meant}`?"));
                let written = escape(written);
                return bad(&format!(
                    "invalid server {written:?}: expected UPSTREAM/SERVER{}",
                    meant.unwrap_or_default()
                ));
            };
            let to = (upstream.to_owned(), server.to_owned());
            let is_known = context.snapshot().server(upstream, server).is_some()
                // The server was removed from the configuration, but still has connections.
                || context.overrides.has_connections_to(&to);
            if !is_known {
                return Err(names::no_server(context, upstream, server));
            }
            Some(to)
        }
    };
    if let Some(client) = &request.client {
        names::check_client(context, client)?;
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
            ..unfiltered
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
    // Members of a fleet have the same rules. With other filters, the identity is not the only
    // possible cause.
    let only = Kill {
        identity: request.identity.clone(),
        ..unfiltered
    };
    let identity = request.identity.as_ref();
    let identity = identity.filter(|_| killed == 0 && *request == only);
    let note = identity.and_then(|identity| {
        unmatched(
            identity,
            &context.snapshot().config.clients,
            Timestamp::now(),
        )
    });
    Ok(Killed {
        killed,
        note,
        fleet: None,
    })
}

async fn reload(
    State(cx): State<ApiContext>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, ApiError> {
    // This request has no parameters yet. Reject all parameters, because later versions may define
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
