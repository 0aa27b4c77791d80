//! The admin address: health and metrics, on a thread of its own so that it
//! answers whatever the connections' workers are doing.

mod api;

use std::{io, net::SocketAddr, sync::Arc, thread};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::sync::oneshot;

use crate::{
    api::{Sight, history},
    dashboard,
    metrics::CONTENT_TYPE,
    shared::Phase,
};

/// The running admin side. Dropping it ends it.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Admin {
    /// Serves on `socket`.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(socket: std::net::TcpListener, sight: Sight) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            runtime.block_on(async {
                tokio::spawn(history::record(Arc::clone(&sight.shared)));
                let result = match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => tokio::select! {
                        result = axum::serve(socket, router(sight)) => result,
                        // Sent or dropped: either way it is over.
                        _ = stopped => Ok(()),
                    },
                    Err(error) => Err(error),
                };
                if let Err(error) = result {
                    tracing::error!(%error, "the admin side ended");
                }
            });
        };
        thread::Builder::new().name("admin".to_owned()).spawn(run)?;
        Ok(Self {
            address,
            _stop: stop,
        })
    }

    /// The bound address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

fn router(sight: Sight) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .nest("/api/v1", api::routes())
        .merge(dashboard::routes())
        .with_state(sight)
}

async fn ready(State(sight): State<Sight>) -> impl IntoResponse {
    match sight.shared.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn metrics(State(sight): State<Sight>) -> impl IntoResponse {
    let shared = sight.shared;
    shared.registry.meter_traffic();
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        shared.books.metrics.encode(),
    )
}
