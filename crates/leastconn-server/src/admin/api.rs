//! Routes of `/api/v1`.

use axum::{
    Extension, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{Method, StatusCode},
    response::Response,
    routing::get,
};

use super::{
    guard,
    response::{error, respond},
    serve::Caller,
};
use crate::api::{
    ApiContext, Clients, ClientsQuery, Connections, ConnectionsQuery, HistoryQuery, Refusals,
    RefusalsQuery, Servers, ServersQuery, Status, openapi::openapi,
};

pub(super) fn routes() -> Router<ApiContext> {
    Router::new()
        .route(
            "/status",
            get(
                async |State(cx): State<ApiContext>, Extension(caller): Extension<Caller>| {
                    let changes = guard::changes(&cx, &caller);
                    respond(move || Status::of(&cx, changes)).await
                },
            ),
        )
        .route(
            "/servers",
            get(
                async |State(cx): State<ApiContext>, query: MaybeQuery<ServersQuery>| match query {
                    Ok(Query(query)) => respond(move || Servers::of(&cx, &query)).await,
                    Err(rejection) => bad_query(&rejection),
                },
            ),
        )
        .route(
            "/clients",
            get(
                async |State(cx): State<ApiContext>, query: MaybeQuery<ClientsQuery>| match query {
                    Ok(Query(query)) => respond(move || Clients::of(&cx, &query)).await,
                    Err(rejection) => bad_query(&rejection),
                },
            ),
        )
        .route(
            "/connections",
            get(
                async |State(cx): State<ApiContext>, query: MaybeQuery<ConnectionsQuery>| {
                    match query {
                        Ok(Query(query)) => respond(move || Connections::of(&cx, &query)).await,
                        Err(rejection) => bad_query(&rejection),
                    }
                },
            ),
        )
        .route(
            "/refusals",
            get(
                async |State(cx): State<ApiContext>, query: MaybeQuery<RefusalsQuery>| match query {
                    Ok(Query(query)) => respond(move || Refusals::of(&cx, &query)).await,
                    Err(rejection) => bad_query(&rejection),
                },
            ),
        )
        .route(
            "/history",
            get(
                async |State(cx): State<ApiContext>, query: MaybeQuery<HistoryQuery>| match query {
                    Ok(Query(query)) => respond(move || cx.history.samples(&query)).await,
                    Err(rejection) => bad_query(&rejection),
                },
            ),
        )
        .route("/openapi.json", get(async || respond(openapi).await))
        .merge(super::changes::routes())
        .method_not_allowed_fallback(async |method: Method| {
            let message = match method {
                Method::GET | Method::HEAD => "use POST: this changes something",
                _ => "use GET to read and POST to change something",
            };
            error(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .fallback(async || {
            error(
                StatusCode::NOT_FOUND,
                "no such resource; /api/v1/openapi.json lists all",
            )
        })
}

type MaybeQuery<T> = Result<Query<T>, QueryRejection>;

fn bad_query(rejection: &QueryRejection) -> Response {
    error(StatusCode::BAD_REQUEST, &rejection.body_text())
}
