//! JSON responses of the API.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::task;

/// A failed request: status and message.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) StatusCode, pub(super) String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        error(self.0, &self.1)
    }
}

/// Responds with the result of `compute`. `compute` runs on a blocking thread, because it may visit
/// many connections and must not delay other requests.
pub(super) async fn respond<T: Serialize + Send + 'static>(
    compute: impl FnOnce() -> T + Send + 'static,
) -> Response {
    let response = try_respond(move || Ok(compute())).await;
    response.unwrap_or_else(ApiError::into_response)
}

/// Like [`respond`], for computations that can fail.
pub(super) async fn try_respond<T: Serialize + Send + 'static>(
    compute: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let body = run_blocking(move || compute().map(|value| serde_json::to_vec(&value))).await??;
    // Serializing a plain struct cannot fail.
    let body = body.map_err(|_| internal_error())?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Runs `compute` on a blocking thread.
///
/// # Errors
/// If `compute` panics, which is logged.
pub(super) async fn run_blocking<T: Send + 'static>(
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let result = task::spawn_blocking(compute).await;
    result.map_err(|_| internal_error())
}

fn internal_error() -> ApiError {
    ApiError(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal error, please report it".to_owned(),
    )
}

/// `{"error": message}`
pub(super) fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({ "error": message }))).into_response()
}
