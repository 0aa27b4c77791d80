//! One connection to the admin side, within limits: a client must not be able to keep
//! others out by being slow or idle.

mod activity;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::unix::UCred,
    sync::watch,
    time::{sleep, timeout},
};

pub(super) use activity::{Activities, Activity};

/// Connections at once, at each of the sockets. When there are more, the one that has
/// been idle for the longest time is closed.
pub(super) const MOST: usize = 128;

/// How long the head of a request may take, from the end of the one before.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection is kept for further requests.
const LIFE: Duration = Duration::from_secs(60);

/// How long its last request may take, whatever it is.
const LAST: Duration = Duration::from_secs(60);

/// Nobody has reason to send more as the head of a request.
const LARGEST_HEAD: usize = 64 * 1024;

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// Somebody at the admin address.
    Address(SocketAddr),
    /// A process at the socket, if the system says which.
    Socket(Option<UCred>),
}

/// Answers requests until either side is done, `closing` says that no more are taken, or
/// it is closed because it is idle.
pub(super) async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    router: Router,
    mut closing: watch::Receiver<bool>,
    activity: Arc<Activity>,
) {
    let inner = TowerToHyperService::new(router);
    let of_requests = Arc::clone(&activity);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let busy = of_requests.begin();
        let answering = inner.call(request);
        async move {
            answering
                .await
                .map(|answer| answer.map(|body| busy.until_end(body)))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(io), service)
    );
    tokio::select! {
        // A client that breaks off or speaks no HTTP is nothing to tell of.
        _ = &mut connection => return,
        _ = closing.wait_for(|&closing| closing) => {}
        // Nothing is on its way to a client that was never answered.
        () = activity.evicted() => if !activity.has_answered() {
            return;
        },
        () = sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST, connection).await;
}
