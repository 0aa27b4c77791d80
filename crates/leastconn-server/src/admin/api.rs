//! `/api/v1`: what there is to see, as JSON.

use axum::{
    Extension, Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::task;

use super::{guard, serve::Caller};
use crate::api::{
    Clients, ClientsQuery, Connections, ConnectionsQuery, HistoryQuery, Refusals, RefusalsQuery,
    Servers, ServersQuery, Sight, Status, openapi::openapi,
};

/// The routes.
pub(super) fn routes() -> Router<Sight> {
    Router::new()
        .route(
            "/status",
            get(
                async |State(sight): State<Sight>, Extension(caller): Extension<Caller>| {
                    let changes = guard::changes(&sight, &caller);
                    answer(move || Status::of(&sight, changes)).await
                },
            ),
        )
        .route(
            "/servers",
            get(
                async |State(sight): State<Sight>, asked: Asked<ServersQuery>| match asked {
                    Ok(Query(query)) => answer(move || Servers::of(&sight, &query)).await,
                    Err(rejection) => wrong(&rejection),
                },
            ),
        )
        .route(
            "/clients",
            get(
                async |State(sight): State<Sight>, asked: Asked<ClientsQuery>| match asked {
                    Ok(Query(query)) => answer(move || Clients::of(&sight, &query)).await,
                    Err(rejection) => wrong(&rejection),
                },
            ),
        )
        .route(
            "/connections",
            get(
                async |State(sight): State<Sight>, asked: Asked<ConnectionsQuery>| match asked {
                    Ok(Query(query)) => answer(move || Connections::of(&sight, &query)).await,
                    Err(rejection) => wrong(&rejection),
                },
            ),
        )
        .route(
            "/refusals",
            get(
                async |State(sight): State<Sight>, asked: Asked<RefusalsQuery>| match asked {
                    Ok(Query(query)) => answer(move || Refusals::of(&sight, &query)).await,
                    Err(rejection) => wrong(&rejection),
                },
            ),
        )
        .route(
            "/history",
            get(
                async |State(sight): State<Sight>, asked: Asked<HistoryQuery>| match asked {
                    Ok(Query(query)) => answer(move || sight.history.samples(&query)).await,
                    Err(rejection) => wrong(&rejection),
                },
            ),
        )
        .route("/openapi.json", get(async || answer(openapi).await))
        .merge(super::changes::routes())
        .method_not_allowed_fallback(async |method: Method| {
            let message = match method {
                Method::GET | Method::HEAD => "that changes something: use POST",
                _ => "what is to be read takes GET, and what changes something POST",
            };
            error(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .fallback(async || {
            error(
                StatusCode::NOT_FOUND,
                "there is no such resource; /api/v1/openapi.json lists them",
            )
        })
}

/// A query, or what is wrong with it.
type Asked<T> = Result<Query<T>, QueryRejection>;

fn wrong(rejection: &QueryRejection) -> Response {
    error(StatusCode::BAD_REQUEST, &rejection.body_text())
}

/// Why something is not done, as it is told to who asked for it.
#[derive(Debug)]
pub(super) struct Wrong(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        error(self.0, &self.1)
    }
}

/// Answers with what `look` sees. It may look at very much: on another thread, so
/// that those who ask for less do not wait.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
) -> Response {
    let done = answer_or(move || Ok(look())).await;
    done.unwrap_or_else(Wrong::into_response)
}

/// The same, with what may be wrong.
pub(super) async fn answer_or<T: Serialize + Send + 'static>(
    look: impl FnOnce() -> Result<T, Wrong> + Send + 'static,
) -> Result<Response, Wrong> {
    let looking = task::spawn_blocking(move || look().map(|seen| serde_json::to_vec(&seen)));
    match looking.await {
        Ok(Ok(Ok(body))) => {
            Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
        }
        Ok(Err(wrong)) => Err(wrong),
        // Plain structs do not fail to be written, and a panic has been logged.
        Ok(Ok(Err(_))) | Err(_) => Err(Wrong(
            StatusCode::INTERNAL_SERVER_ERROR,
            "a fault in the balancer, which its log tells more of: please report it".to_owned(),
        )),
    }
}

/// An error, as JSON.
pub(super) fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({ "error": message }))).into_response()
}
