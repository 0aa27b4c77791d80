//! The admin address: health and metrics, on a thread of its own so that it
//! answers whatever the connections' workers are doing.

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
    metrics::CONTENT_TYPE,
    shared::{Phase, Shared},
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
    pub fn start(socket: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            runtime.block_on(async {
                let result = match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => tokio::select! {
                        result = axum::serve(socket, router(shared)) => result,
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

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn ready(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    match shared.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.registry.meter_traffic();
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        shared.books.metrics.encode(),
    )
}
