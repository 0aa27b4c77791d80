//! `POST` under `/api/v1`: what changes something. The guard has let it through.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
    routing::post,
};
use leastconn::AdminState;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    api::{answer, error},
    serve::Caller,
};
use crate::{
    api::{Kill, Killed, LogLevel, Reload, SetLogLevel, SetState, Sight, StateSet},
    by_hand,
    config::{self, duration, suggest},
    record::escape,
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
async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Response> {
    let body = match timeout(PATIENCE, to_bytes(body, LARGEST)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return Err(error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is longer than 64 KiB, or has broken off",
            ));
        }
        Err(_) => {
            return Err(error(
                StatusCode::REQUEST_TIMEOUT,
                "the body has not come within ten seconds",
            ));
        }
    };
    serde_json::from_slice(&body)
        .map_err(|wrong| error(StatusCode::BAD_REQUEST, &format!("the body: {wrong}")))
}

async fn set_state(
    State(sight): State<Sight>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Body,
) -> Result<Response, Response> {
    let Path((upstream, server)) =
        path.map_err(|wrong| error(StatusCode::BAD_REQUEST, &wrong.body_text()))?;
    let asked: SetState = read(body).await?;
    let state = AdminState::from(asked.state);
    let grace = match &asked.grace {
        None => GRACE,
        Some(_) if state != AdminState::Maint => {
            return Err(error(
                StatusCode::BAD_REQUEST,
                "`grace` is for `maint` only: nothing else ends connections",
            ));
        }
        Some(text) => duration::parse(text)
            .map_err(|wrong| error(StatusCode::BAD_REQUEST, &format!("`grace`: {wrong}")))?,
    };
    let shared = &sight.shared;
    let set =
        shared
            .by_hand
            .set_server(sight.control.runtime(), (&upstream, &server), state, grace);
    let set = set.map_err(|by_hand::NoSuchServer| no_server(&sight, &upstream, &server))?;
    caller.did(&format!(
        "set {upstream}/{server} to {}, which was in {}",
        state.as_str(),
        set.was.as_str()
    ));
    let ends = state == AdminState::Maint;
    let done = StateSet {
        upstream,
        server,
        state: state.into(),
        was: set.was.into(),
        active: set.active,
        ends_after_seconds: ends.then_some(grace.as_secs_f64()),
    };
    Ok(answer(move || done).await)
}

async fn kill(
    State(sight): State<Sight>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Response> {
    let asked: Kill = read(body).await?;
    if asked == Kill::default() {
        return Err(error(
            StatusCode::BAD_REQUEST,
            "which connections? say `client`, `identity`, `server` or `connection`",
        ));
    }
    let server = match asked
        .server
        .as_deref()
        .map(|server| (server, server.split_once('/')))
    {
        None => None,
        Some((_, Some((upstream, server)))) => {
            by_hand::find(&sight.shared.state(), upstream, server)
                .ok_or_else(|| no_server(&sight, upstream, server))?;
            Some((upstream.into(), server.into()))
        }
        Some((written, None)) => {
            return Err(error(
                StatusCode::BAD_REQUEST,
                &format!("{:?} is no server: write UPSTREAM/SERVER", escape(written)),
            ));
        }
    };
    if let Some(client) = &asked.client
        && let Some(nobody) = no_client(&sight, client)
    {
        return Err(nobody);
    }
    let killed = by_hand::kill(&sight.shared.registry, |id, known| {
        let identity = || {
            known
                .identity
                .as_ref()
                .map(|identity| escape(identity.as_str()))
        };
        asked.connection.is_none_or(|asked| asked == id)
            && asked
                .client
                .as_deref()
                .is_none_or(|asked| known.client().is_some_and(|client| **client == *asked))
            && server
                .as_ref()
                .is_none_or(|server| by_hand::is_to(known, server))
            && asked
                .identity
                .as_ref()
                .is_none_or(|asked| identity().as_ref() == Some(asked))
    });
    if let Some(id) = asked.connection.filter(|_| killed == 0) {
        return Err(error(
            StatusCode::NOT_FOUND,
            &format!("there is no open connection {id} of that kind"),
        ));
    }
    caller.did(&format!("killed {killed} connections"));
    Ok(answer(move || Killed { killed }).await)
}

async fn reload(
    State(sight): State<Sight>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Response> {
    // Nothing can be asked for; whatever is must be understood by later versions.
    let _: Nothing = read(body).await?;
    caller.did("asked for a reload");
    let done = Reload::from(Arc::clone(&sight.control).reload().await);
    Ok(answer(move || done).await)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn set_log_level(
    State(sight): State<Sight>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Response> {
    let asked: SetLogLevel = read(body).await?;
    let shared = &sight.shared;
    let log = || shared.state().config.log.clone();
    // So that it is written under whichever of the two lets more through.
    let before = shared.by_hand.level(&log());
    let says = asked.level.map_or("the file's", config::Level::as_str);
    let message = format!("set the level of the log to {says}");
    let more = asked.level.is_some_and(|level| level > before);
    if !more {
        caller.did(&message);
    }
    shared.by_hand.set_level(asked.level);
    if more {
        caller.did(&message);
    }
    let done = LogLevel {
        level: shared.by_hand.level(&log()),
        configured: log().level,
    };
    Ok(answer(move || done).await)
}

/// The error for a server that is not there.
fn no_server(sight: &Sight, upstream: &str, server: &str) -> Response {
    let state = sight.shared.state();
    let names: Vec<_> = state
        .config
        .upstreams
        .iter()
        .flat_map(|group| {
            let servers = group.servers.iter();
            servers.map(move |server| format!("{}/{}", group.id, server.id))
        })
        .collect();
    nothing_called(&format!("{upstream}/{server}"), "server", &names)
}

/// The error for a client that is not there.
fn no_client(sight: &Sight, client: &str) -> Option<Response> {
    let state = sight.shared.state();
    let is_there = state
        .config
        .clients
        .iter()
        .any(|rule| rule.name() == client);
    if is_there {
        return None;
    }
    let names: Vec<_> = state
        .config
        .clients
        .iter()
        .map(|rule| rule.name().to_owned())
        .collect();
    Some(nothing_called(client, "client", &names))
}

fn nothing_called(name: &str, what: &str, known: &[String]) -> Response {
    let name_shown = escape(name);
    let hint = match suggest::nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; `ctl {what}s` lists them"),
    };
    error(
        StatusCode::NOT_FOUND,
        &format!("there is no {what} `{name_shown}`{hint}"),
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
