//! One connection to the admin side, with limits that keep slow or idle clients from locking out
//! other clients.

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

/// Maximum connections per listening socket. At the limit, a new connection replaces the connection
/// that has been idle longest.
pub(super) const MAX_CONNECTIONS: usize = 128;

/// Time limit for receiving the headers of a request. It starts at the end of the previous request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which a connection accepts no further requests.
const MAX_LIFETIME: Duration = Duration::from_secs(60);

/// Time limit for completing the request in progress when a connection is shut down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// Size limit of a request's headers.
const MAX_HEADERS: usize = 64 * 1024;

/// Client of the admin side.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// Connected by TCP.
    Address(SocketAddr),
    /// Connected by UNIX socket, with the peer's credentials if the kernel provides them.
    Socket(Option<UCred>),
}

/// Serves requests until either side closes, `closing` becomes true, or the connection is
/// evicted because it is idle.
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
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADERS)
            .serve_connection(TokioIo::new(io), service)
    );
    tokio::select! {
        // A client that disconnects or does not speak HTTP is not worth logging.
        _ = &mut connection => return,
        _ = closing.wait_for(|&closing| closing) => {}
        // If no request has been answered, there is no response to complete.
        () = activity.evicted() => if !activity.has_answered() {
            return;
        },
        () = sleep(MAX_LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(SHUTDOWN_TIMEOUT, connection).await;
}
