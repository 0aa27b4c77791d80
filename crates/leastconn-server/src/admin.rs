//! The admin side: health, metrics and the API, on threads of its own so that it answers
//! whatever the connections' workers are doing, and with descriptors in reserve so
//! that it answers when there are no others.
//!
//! Where it listens is planned and changed as the listeners' sockets are
//! ([`crate::sockets`]): all that can fail is done first, and what stays is not
//! touched. The thread is there with or without an address, so that a reload can
//! add one.

mod api;
mod changes;
mod guard;
mod listening;
mod reserve;
mod serve;

use std::{io, net::SocketAddr, sync::Arc, thread};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::{self, JoinHandle, JoinSet},
};

use crate::{
    api::{History, Sight, UpstreamSummary, history},
    config::{Config, visible},
    context::{Phase, ServerContext},
    control::Control,
    dashboard,
    process::inherited::Inherited,
    process::upgrade::Passed,
    telemetry::metrics::CONTENT_TYPE,
};

pub use crate::socket_file::SocketError;
use listening::Listening;
pub use listening::{Changes, Place, Plan, PlanError};
use reserve::Reserve;

/// What logs call it, where they call a listener by its name.
pub(crate) const NAME: &str = "admin";

/// Threads that look at what there may be very much of, so that the admin side's own
/// is free for who asks for little. Few, however many ask: the processors are the
/// connections'.
const LOOKING: usize = 4;

/// The running admin side, for as long as its [`Thread`] is there.
#[derive(Debug)]
pub struct Admin {
    runtime: Handle,
    listening: Listening,
    /// Reads what is shown of the last minutes, while there is anybody to show it to.
    recording: JoinSet<()>,
    history: Arc<History>,
}

/// The thread of the admin side. Dropping it ends it. Apart from [`Admin`], which
/// those that it serves can reach.
#[derive(Debug)]
pub struct Thread {
    _stop: oneshot::Sender<()>,
}

impl Admin {
    /// Starts its thread, which listens nowhere yet.
    ///
    /// # Errors
    /// If there are no resources for it.
    pub fn start() -> io::Result<(Self, Thread)> {
        let reserve = Reserve::new()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(LOOKING)
            .build()?;
        let handle = runtime.handle().clone();
        let run = move || {
            // Sent or dropped: either way it is over.
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

    /// Works out what has to change for `config`, and binds what is new, unless it
    /// was `inherited`.
    ///
    /// # Errors
    /// All addresses that are not to be had. What was bound is closed again.
    pub fn plan(&self, config: &Config, inherited: &mut Inherited) -> Result<Plan, Vec<PlanError>> {
        let _enter = self.runtime.enter();
        self.listening.plan(config.admin.as_ref(), inherited)
    }

    /// Carries out a plan that was made for the admin side as it is now. Requests
    /// that have come to an address that goes are answered.
    pub fn apply(
        &mut self,
        plan: Plan,
        context: &Arc<ServerContext>,
        control: Arc<dyn Control>,
    ) -> Changes {
        let sight = Sight {
            context: Arc::clone(context),
            control,
            history: Arc::clone(&self.history),
        };
        let router = || router(sight.clone());
        let changes = self.listening.apply(plan, &self.runtime, router);
        if self.listening.is_empty() {
            self.recording = JoinSet::new();
        } else if self.recording.is_empty() {
            let record = history::record(Arc::clone(&self.history), Arc::clone(context));
            self.recording.spawn_on(record, &self.runtime);
        }
        changes
    }

    /// Copies of its sockets, for another process.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn share(&self) -> io::Result<Vec<Passed>> {
        self.listening.share()
    }

    /// Answers from now on. Whatever process was here before has left its sockets: their
    /// files go with this one.
    pub(crate) fn begin(&mut self) {
        self.listening.begin();
    }

    /// Listens nowhere any more: another process has copies of its sockets, but for
    /// those at `unused` paths, whose files go. Returns tasks: what comes once they have
    /// ended is that process's.
    pub(crate) fn leave(&mut self, unused: &[String]) -> Vec<JoinHandle<()>> {
        self.recording = JoinSet::new();
        self.listening.leave(unused)
    }

    /// The bound address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listening.address()
    }

    /// Wherever it listens.
    pub fn places(&self) -> Vec<Place> {
        self.listening.places()
    }

    /// Listens nowhere any more, and removes its socket. Returns tasks, as
    /// [leaving](Self::leave) does.
    pub(crate) fn close(&mut self) -> Vec<JoinHandle<()>> {
        self.recording = JoinSet::new();
        self.listening.close()
    }

    /// Waits until all have been answered that were there when it was closed or left.
    pub(crate) fn answered(&self) -> impl Future<Output = ()> + Send + use<> {
        self.listening.answered()
    }
}

fn router(sight: Sight) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .nest("/api/v1", api::routes())
        .merge(dashboard::routes())
        .fallback(async || {
            let message = "there is nothing of that name: see /, /metrics, /healthz, /readyz and /api/v1/openapi.json";
            api::error(StatusCode::NOT_FOUND, message)
        })
        .layer(middleware::from_fn_with_state(sight.clone(), guard::guard))
        .with_state(sight)
}

/// What `/readyz` may be asked.
#[derive(Debug, Deserialize)]
struct ReadyQuery {
    /// Ready only if this upstream has an available server.
    upstream: Option<String>,
}

async fn ready(State(sight): State<Sight>, Query(query): Query<ReadyQuery>) -> Response {
    let unavailable = |body: String| (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    match sight.context.lifecycle.phase() {
        Phase::Starting => return unavailable("starting\n".to_owned()),
        Phase::Draining => return unavailable("draining\n".to_owned()),
        // The question is about the service, not the process: it is ready, and the next
        // request is answered by the successor.
        Phase::Ready | Phase::Replaced => {}
    }
    let Some(name) = query.upstream else {
        return "ready\n".into_response();
    };
    let state = sight.context.snapshot();
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

async fn metrics(State(sight): State<Sight>) -> Response {
    let context = sight.context;
    let encoding = task::spawn_blocking(move || {
        context.registry.meter_traffic();
        drop(context.prune_metrics());
        context.telemetry.metrics.encode()
    });
    match encoding.await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        // A panic, which has been logged.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests;
