//! `POST` under `/api/v1`: what changes something. The guard has let it through.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
    routing::post,
};
use leastconn::AdminState;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    api::{Wrong, answer, answer_or},
    serve::Caller,
};
use crate::{
    api::{
        Kill, Killed, LogLevel, Reload, SetLogLevel, SetState, Sight, StateSet, UpstreamSummary,
    },
    config::{self, duration, suggest},
    context::ServerContext,
    overrides::{ConnectionFilter, Replaced, SetServerError},
    text::escape,
};

/// What is said is short.
const LARGEST: usize = 64 * 1024;

/// How long saying it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long connections to a server may go on when it is set to `maint`.
const GRACE: Duration = Duration::from_secs(10);

/// The routes.
pub(super) fn routes() -> Router<Sight> {
    Router::new()
        .route("/servers/{upstream}/{server}/state", post(set_state))
        .route("/connections/kill", post(kill))
        .route("/reload", post(reload))
        .route("/log-level", post(set_log_level))
}

/// Reads what is asked for.
async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Wrong> {
    understand(&bytes(body).await?)
}

async fn bytes(body: Body) -> Result<Bytes, Wrong> {
    let (status, message) = match timeout(PATIENCE, to_bytes(body, LARGEST)).await {
        Ok(Ok(body)) => return Ok(body),
        Ok(Err(_)) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is longer than 64 KiB, or has broken off",
        ),
        Err(_) => (
            StatusCode::REQUEST_TIMEOUT,
            "the body has not come within ten seconds",
        ),
    };
    Err(Wrong(status, message.to_owned()))
}

fn understand<T: DeserializeOwned>(body: &[u8]) -> Result<T, Wrong> {
    if body.is_empty() {
        return bad("there is no body; /api/v1/openapi.json says which JSON is wanted");
    }
    serde_json::from_slice(body)
        .or_else(|wrong| bad(&format!("the body is not the JSON that is wanted: {wrong}")))
}

fn bad<T>(message: &str) -> Result<T, Wrong> {
    Err(Wrong(StatusCode::BAD_REQUEST, message.to_owned()))
}

async fn set_state(
    State(sight): State<Sight>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Body,
) -> Result<Response, Wrong> {
    let Path((upstream, server)) = path.or_else(|wrong| bad(&wrong.body_text()))?;
    let asked: SetState = read(body).await?;
    let state = AdminState::from(asked.state);
    let grace = match &asked.grace {
        None => GRACE,
        Some(_) if state != AdminState::Maint => {
            return bad("`grace` is for `maint` only: nothing else ends connections");
        }
        Some(text) => duration::parse(text).or_else(|wrong| bad(&format!("`grace`: {wrong}")))?,
    };
    answer_or(move || {
        let context = &sight.context;
        let set = context.overrides.set_server(
            sight.control.runtime(),
            (&upstream, &server),
            state,
            grace,
        );
        let set = set.map_err(|not_set| match not_set {
            SetServerError::NoSuchServer => no_server(context, &upstream, &server),
            SetServerError::Replaced => replaced(Replaced),
        })?;
        caller.did(&format!(
            "set {upstream}/{server} to {}, which was in {}",
            state.as_str(),
            set.was.as_str()
        ));
        let ends = state == AdminState::Maint;
        let left = context.snapshot();
        let left = left.upstreams.get(&*upstream);
        let available = left.map(|upstream| UpstreamSummary::of(upstream.pool()).available);
        Ok(StateSet {
            upstream,
            server,
            state: state.into(),
            was: set.was.into(),
            active: set.active,
            available,
            ends_after_seconds: ends.then_some(grace.as_secs_f64()),
        })
    })
    .await
}

async fn kill(
    State(sight): State<Sight>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Wrong> {
    let asked: Kill = read(body).await?;
    answer_or(move || end(&sight.context, &asked, &caller)).await
}

/// Ends connections.
fn end(context: &ServerContext, asked: &Kill, caller: &Caller) -> Result<Killed, Wrong> {
    if *asked == Kill::default() {
        return bad("which connections? say `client`, `identity`, `server` or `connection`");
    }
    let server = match &asked.server {
        None => None,
        Some(written) => {
            let Some((upstream, server)) = written.split_once('/') else {
                let written = escape(written);
                return bad(&format!("{written:?} is no server: write UPSTREAM/SERVER"));
            };
            let to = (upstream.to_owned(), server.to_owned());
            let is_known = context.snapshot().server(upstream, server).is_some()
                // Gone from the configuration, and still there.
                || context.overrides.has_connections_to(&to);
            if !is_known {
                return Err(no_server(context, upstream, server));
            }
            Some(to)
        }
    };
    if let Some(client) = &asked.client {
        is_client(context, client)?;
    }
    let which = ConnectionFilter {
        client: asked.client.clone(),
        identity: asked.identity.clone(),
        server,
        connection: asked.connection,
    };
    let killed = context.overrides.kill(&which).map_err(replaced)?;
    if let Some(id) = asked.connection.filter(|_| killed == 0) {
        let only = Kill {
            connection: asked.connection,
            ..Kill::default()
        };
        let that = if *asked == only {
            ""
        } else {
            " for which all of that holds"
        };
        return Err(Wrong(
            StatusCode::NOT_FOUND,
            format!("there is no open connection {id}{that}; `ctl connections` lists them"),
        ));
    }
    caller.did(&format!("killed {killed} connections of {which}"));
    Ok(Killed { killed })
}

async fn reload(
    State(sight): State<Sight>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Wrong> {
    // Nothing can be asked for; whatever is must be understood by later versions.
    let body = bytes(body).await?;
    if !body.is_empty() {
        let _: Nothing = understand(&body)?;
    }
    caller.did("asked for a reload");
    let done = Arc::clone(&sight.control).reload().await;
    let done = Reload::from(done.map_err(replaced)?);
    Ok(answer(move || done).await)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn set_log_level(
    State(sight): State<Sight>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Wrong> {
    let asked: SetLogLevel = read(body).await?;
    let context = &sight.context;
    context.overrides.ensure_active().map_err(replaced)?;
    let log = || context.snapshot().config.log.clone();
    // So that it is written under whichever of the two lets more through.
    let before = context.overrides.level(&log());
    let says = asked.level.map_or("the file's", config::Level::as_str);
    let message = format!("set the level of the log to {says}");
    let more = asked.level.is_some_and(|level| level > before);
    if !more {
        caller.did(&message);
    }
    context.overrides.set_level(asked.level).map_err(replaced)?;
    if more {
        caller.did(&message);
    }
    let done = LogLevel {
        level: context.overrides.level(&log()),
        configured: log().level,
    };
    Ok(answer(move || done).await)
}

/// The error for what came to a process while another one took its place.
fn replaced(Replaced: Replaced) -> Wrong {
    let message = "another process has just taken the place of this one: ask again";
    Wrong(StatusCode::SERVICE_UNAVAILABLE, message.to_owned())
}

/// The error for a server that is not there.
fn no_server(context: &ServerContext, upstream: &str, server: &str) -> Wrong {
    let state = context.snapshot();
    let groups = state.config.upstreams.iter();
    let names: Vec<_> = groups
        .flat_map(|group| {
            let servers = group.servers.iter();
            servers.map(move |server| format!("{}/{}", group.id, server.id))
        })
        .collect();
    let names = names.iter().map(String::as_str);
    nothing_called(&format!("{upstream}/{server}"), "server", names)
}

/// Whether there is a client of that name.
fn is_client(context: &ServerContext, name: &str) -> Result<(), Wrong> {
    let state = context.snapshot();
    let names = || state.config.clients.iter().map(|rule| rule.name());
    if names().any(|known| known == name) {
        return Ok(());
    }
    Err(nothing_called(name, "client", names()))
}

fn nothing_called<'a>(name: &str, what: &str, known: impl Iterator<Item = &'a str>) -> Wrong {
    let hint = match suggest::nearest(name, known) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; `ctl {what}s` lists them"),
    };
    let name = escape(name);
    Wrong(
        StatusCode::NOT_FOUND,
        format!("there is no {what} `{name}`{hint}"),
    )
}

impl Caller {
    /// Writes down who did what.
    fn did(&self, what: &str) {
        let what = escape(what);
        match self {
            Self::Socket(Some(who)) => {
                tracing::info!(uid = who.uid(), pid = who.pid(), "by hand: {what}")
            }
            Self::Socket(None) => tracing::info!("by hand, at the socket: {what}"),
            Self::Address(from) => tracing::info!(%from, "by hand, with the token: {what}"),
        }
    }
}
