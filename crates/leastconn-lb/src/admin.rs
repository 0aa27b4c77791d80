//! The admin address: health and metrics, on a thread of its own so that it
//! answers whatever the connections' workers are doing.

mod api;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};

use crate::{
    api::{Sight, history},
    metrics::CONTENT_TYPE,
    shared::Phase,
};

/// How long requests may take to be answered once it is over.
const WIND_UP: Duration = Duration::from_secs(2);

/// The running admin side. Dropping it ends it: nothing new is taken, and what has
/// been asked is answered, unless that takes long.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    /// To be passed on.
    socket: std::net::TcpListener,
    _stop: oneshot::Sender<()>,
}

impl Admin {
    /// Serves on `socket`.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(socket: std::net::TcpListener, sight: Sight) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let copy = socket.try_clone()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = move || {
            runtime.block_on(async {
                tokio::spawn(history::record(Arc::clone(&sight.shared)));
                let result = match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => {
                        let stop = Arc::new(Notify::new());
                        let told = Arc::clone(&stop);
                        let serving = axum::serve(socket, router(sight))
                            .with_graceful_shutdown(async move { told.notified().await });
                        let stopping = async {
                            // Sent or dropped: either way it is over.
                            let _ = stopped.await;
                            stop.notify_one();
                            sleep(WIND_UP).await;
                        };
                        tokio::select! {
                            result = serving => result,
                            () = stopping => Ok(()),
                        }
                    }
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
            socket: copy,
            _stop: stop,
        })
    }

    /// A copy of its socket, for another process.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
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
        .with_state(sight)
}

async fn ready(State(sight): State<Sight>) -> impl IntoResponse {
    match sight.shared.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        // Whoever asks wants to know of the service, not of the process: it is ready,
        // and the next one who asks is answered by another process.
        Phase::Ready | Phase::Replaced => (StatusCode::OK, "ready\n"),
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
