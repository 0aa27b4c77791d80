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
    response::{ApiError, error, respond, try_respond},
    serve::Caller,
};
use crate::api::{
    ApiContext, Blocks, Clients, ClientsQuery, Connections, ConnectionsQuery, Fleet, HistoryQuery,
    Refusals, RefusalsQuery, Servers, ServersQuery, Status, openapi::openapi,
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
        .route(
            "/blocks",
            get(async |State(cx): State<ApiContext>| respond(move || Blocks::of(&cx)).await),
        )
        .route(
            "/fleet",
            get(async |State(cx): State<ApiContext>| {
                try_respond(move || Fleet::of(&cx).ok_or_else(no_fleet)).await
            }),
        )
        .route("/openapi.json", get(async || respond(openapi).await))
        .merge(super::changes::routes())
        .method_not_allowed_fallback(async |method: Method| {
            let message = match method {
                Method::GET | Method::HEAD => "use POST for requests that make changes",
                _ => "use GET to read and POST to make changes",
            };
            error(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .fallback(async || {
            error(
                StatusCode::NOT_FOUND,
                "no such resource; /api/v1/openapi.json lists all resources",
            )
        })
}

fn no_fleet() -> ApiError {
    let message = "this balancer is not a member of a fleet: its configuration has no `[fleet]`";
    ApiError(StatusCode::NOT_FOUND, message.to_owned())
}

type MaybeQuery<T> = Result<Query<T>, QueryRejection>;

fn bad_query(rejection: &QueryRejection) -> Response {
    error(StatusCode::BAD_REQUEST, &rejection.body_text())
}
