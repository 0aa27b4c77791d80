//! The admin side: health, metrics, API and dashboard. It has its own threads, so it responds even
//! while all workers are busy, and reserved file descriptors, so it responds even when the process
//! has run out of descriptors.
//!
//! A reload changes the admin sockets in two steps, as it does for listener sockets
//! ([`crate::sockets`]): planning can fail, applying the plan cannot. Unchanged sockets are not
//! touched. The admin thread runs even if no address is configured, so that a reload can add one.

mod accept;
mod api;
mod changes;
#[cfg(any(test, fuzzing))]
pub(crate) mod drive;
mod guard;
mod listening;
mod reserve;
mod response;
mod serve;

use std::{io, net::SocketAddr, sync::Arc, thread};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use leastconn_config::{Config, visible};
use serde::Deserialize;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::{self, JoinHandle, JoinSet},
};

use crate::{
    api::{ApiContext, History, UpstreamSummary, history},
    context::{Phase, ServerContext},
    control::Control,
    process::inherited::Inherited,
    process::upgrade::Passed,
    telemetry::metrics::Format,
};

pub use crate::socket_file::SocketError;
use listening::Listening;
pub use listening::{Changes, Place, Plan, PlanError};
use reserve::Reserve;

/// The name that logs use for the admin side. For a listener, they use its configured name.
pub(crate) const NAME: &str = "admin";

/// Number of blocking threads for expensive requests, which must not delay cheap ones. The number
/// is small, because the CPUs are needed for client connections.
const BLOCKING_THREADS: usize = 4;

/// The error for unknown paths. Without the dashboard, `/` is one of them.
const NOT_FOUND: &str = if cfg!(feature = "dashboard") {
    "not found; see /, /metrics, /healthz, /readyz and /api/v1/openapi.json"
} else {
    "not found; see /metrics, /healthz, /readyz and /api/v1/openapi.json; this program was built \
     without the dashboard"
};

/// The running admin side. It stops when its [`Thread`] is dropped.
#[derive(Debug)]
pub struct Admin {
    runtime: Handle,
    listening: Listening,
    /// The task that records the history. It runs only while the admin side listens.
    recording: JoinSet<()>,
    history: Arc<History>,
}

/// The admin thread. It ends when this value is dropped. It is separate from [`Admin`], because
/// request handlers on this thread hold references to [`Admin`].
#[derive(Debug)]
pub struct Thread {
    _stop: oneshot::Sender<()>,
}

impl Admin {
    /// Starts the thread. It does not listen on any address yet.
    ///
    /// # Errors
    /// If the thread or the reserved descriptors cannot be created.
    pub fn start() -> io::Result<(Self, Thread)> {
        let reserve = Reserve::new()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let handle = runtime.handle().clone();
        let run = move || {
            // Stop when a message is sent or the sender is dropped.
            let _ = runtime.block_on(stopped);
        };
        thread::Builder::new().name(NAME.to_owned()).spawn(run)?;
        let admin = Self {
            runtime: handle,
            listening: Listening::new(reserve),
            recording: JoinSet::new(),
            history: Arc::default(),
        };
        Ok((admin, Thread { _stop: stop }))
    }

    /// Plans the change to `config`. New addresses are bound, except those whose sockets were
    /// `inherited`.
    ///
    /// # Errors
    /// Returns all addresses that cannot be bound. Sockets that were bound for this plan are closed
    /// again.
    pub fn plan(&self, config: &Config, inherited: &mut Inherited) -> Result<Plan, Vec<PlanError>> {
        let _enter = self.runtime.enter();
        self.listening.plan(config.admin.as_ref(), inherited)
    }

    /// Applies a plan, which must have been made for the current state. Pending requests at removed
    /// addresses are still answered.
    pub fn apply(
        &mut self,
        plan: Plan,
        context: &Arc<ServerContext>,
        control: Arc<dyn Control>,
    ) -> Changes {
        let cx = ApiContext {
            context: Arc::clone(context),
            control,
            history: Arc::clone(&self.history),
        };
        let router = || router(cx.clone());
        let changes = self.listening.apply(plan, &self.runtime, router);
        if self.listening.is_empty() {
            self.recording = JoinSet::new();
        } else if self.recording.is_empty() {
            let record = history::record(Arc::clone(&self.history), Arc::clone(context));
            self.recording.spawn_on(record, &self.runtime);
        }
        changes
    }

    /// Duplicates the sockets for a successor process.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn share(&self) -> io::Result<Vec<Passed>> {
        self.listening.share()
    }

    /// Starts accepting. From then on, this process instead of its predecessor removes the socket
    /// files when it exits.
    pub(crate) fn begin(&mut self) {
        self.listening.begin();
    }

    /// Stops accepting, because a successor process now accepts from the sockets. Removes the files
    /// of the sockets at `unused` paths, which the successor does not use. This process accepts no
    /// more connections once the returned tasks have ended.
    pub(crate) fn leave(&mut self, unused: &[String]) -> Vec<JoinHandle<()>> {
        self.recording = JoinSet::new();
        self.listening.leave(unused)
    }

    /// The bound TCP address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listening.address()
    }

    pub fn places(&self) -> Vec<Place> {
        self.listening.places()
    }

    /// Stops accepting and removes the socket file. Like [`Self::leave`], returns the tasks that
    /// the caller must wait for.
    pub(crate) fn close(&mut self) -> Vec<JoinHandle<()>> {
        self.recording = JoinSet::new();
        self.listening.close()
    }

    /// Waits until all requests that were pending when [`Self::close`] or [`Self::leave`] was
    /// called have been answered.
    pub(crate) fn answered(&self) -> impl Future<Output = ()> + Send + use<> {
        self.listening.answered()
    }
}

fn router(cx: ApiContext) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .nest("/api/v1", api::routes())
        .merge(dashboard_routes())
        .fallback(async || response::error(StatusCode::NOT_FOUND, NOT_FOUND))
        .layer(middleware::from_fn_with_state(cx.clone(), guard::guard))
        .with_state(cx)
}

#[cfg(feature = "dashboard")]
fn dashboard_routes() -> Router<ApiContext> {
    crate::dashboard::routes()
}

#[cfg(not(feature = "dashboard"))]
fn dashboard_routes() -> Router<ApiContext> {
    Router::new()
}

#[derive(Debug, Deserialize)]
struct ReadyQuery {
    /// If set, the process is ready only if this upstream has an available server.
    upstream: Option<String>,
}

async fn ready(State(cx): State<ApiContext>, Query(query): Query<ReadyQuery>) -> Response {
    let unavailable = |body: String| (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    match cx.context.lifecycle.phase() {
        Phase::Starting => return unavailable("starting\n".to_owned()),
        Phase::Draining => return unavailable("draining\n".to_owned()),
        // `Replaced` counts as ready, because the service is ready: the successor answers the next
        // request.
        Phase::Ready | Phase::Replaced => {}
    }
    let Some(name) = query.upstream else {
        return "ready\n".into_response();
    };
    let state = cx.context.snapshot();
    let upstreams = UpstreamSummary::all(&state);
    let Some(upstream) = upstreams.iter().find(|upstream| upstream.name == name) else {
        let names: Vec<_> = upstreams.iter().map(|one| &*one.name).collect();
        let names = names.join(", ");
        let body = format!("no upstream {:?}; there are: {names}\n", visible(&name));
        return (StatusCode::NOT_FOUND, body).into_response();
    };
    match upstream.available {
        0 => unavailable(format!("no available server in upstream {name}\n")),
        _ => "ready\n".into_response(),
    }
}

async fn metrics(State(cx): State<ApiContext>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT);
    let format = Format::negotiate(accept.and_then(|accept| accept.to_str().ok()));
    let context = cx.context;
    let encoding = task::spawn_blocking(move || {
        context.registry.meter_traffic();
        drop(context.prune_metrics());
        context.telemetry.metrics.encode(format)
    });
    match encoding.await {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        // The task panicked; the panic has been logged.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests;
