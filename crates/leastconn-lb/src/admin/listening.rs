//! Where the admin side listens: a set of sockets, each with a task that serves it.

use std::{future::Future, io, mem, net::SocketAddr, sync::Arc};

use axum::Router;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::oneshot,
};

use super::{
    NAME,
    reserve::{Reserve, Reserved},
};
use crate::{
    accept::{self, BindError},
    config,
    sockets::{Changes, PlanError},
};

/// A socket that accepts, of whatever kind.
pub(super) trait Accept: Send + 'static {
    /// What it gives.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        // Not that of the trait: by reference.
        let (stream, _) = Self::accept(&*self).await?;
        Ok(stream)
    }
}

/// What the configuration wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Tcp(SocketAddr),
}

/// Bound, and not yet served.
#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
}

#[derive(Debug)]
struct Bound {
    wanted: Wanted,
    /// With the port that the system chose.
    address: SocketAddr,
    /// Dropped: take no more, answer what has come, and close.
    _open: oneshot::Sender<()>,
}

/// The sockets that are served.
#[derive(Debug)]
pub(super) struct Listening {
    bound: Vec<Bound>,
    reserve: Arc<Reserve>,
}

/// What is to change: all that can fail has been done.
#[derive(Debug)]
pub struct Plan(Vec<(Wanted, Source)>);

#[derive(Debug)]
enum Source {
    /// The number of a socket that is bound already.
    Kept(usize),
    New(Socket),
}

impl Listening {
    pub(super) const fn new(reserve: Arc<Reserve>) -> Self {
        Self {
            bound: Vec::new(),
            reserve,
        }
    }

    /// See [`super::Admin::plan`]. Within the admin side's runtime.
    pub(super) fn plan(&self, config: Option<&config::Admin>) -> Result<Plan, Vec<PlanError>> {
        let mut plan = Vec::new();
        let mut errors = Vec::new();
        for wanted in wanted(config) {
            let kept = self.bound.iter().position(|bound| bound.wanted == wanted);
            let from = match kept {
                Some(number) => Ok(Source::Kept(number)),
                None => self.bind(wanted).map(Source::New),
            };
            match from {
                Ok(from) => plan.push((wanted, from)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Plan(plan))
        } else {
            Err(errors)
        }
    }

    fn bind(&self, wanted: Wanted) -> Result<Socket, PlanError> {
        let Wanted::Tcp(address) = wanted;
        let open = |socket: std::net::TcpListener| {
            let address = socket.local_addr()?;
            io::Result::Ok(Socket::Tcp(TcpListener::from_std(socket)?, address))
        };
        accept::bind(NAME, address, false, None)
            .and_then(|socket| open(socket).map_err(|error| BindError::new(NAME, address, error)))
            .map_err(|error| {
                let in_the_way = self
                    .bound
                    .iter()
                    .find(|bound| error.is_in_use() && bound.address.port() == address.port());
                match in_the_way {
                    Some(bound) => PlanError::Overlaps {
                        listener: NAME.into(),
                        address,
                        at: bound.address,
                    },
                    None => error.into(),
                }
            })
    }

    /// See [`super::Admin::apply`].
    pub(super) fn apply(
        &mut self,
        plan: Plan,
        runtime: &Handle,
        router: impl Fn() -> Router,
        changes: &mut Changes,
    ) {
        let mut earlier: Vec<_> = mem::take(&mut self.bound).into_iter().map(Some).collect();
        for (wanted, from) in plan.0 {
            let bound = match from {
                Source::Kept(number) => earlier.get_mut(number).and_then(Option::take),
                Source::New(Socket::Tcp(socket, address)) => {
                    changes.opened.push((NAME.into(), address));
                    Some(Bound {
                        wanted,
                        address,
                        _open: self.serve(socket, runtime, router()),
                    })
                }
            };
            // A plan names each that is kept once.
            self.bound.extend(bound);
        }
        for bound in earlier.into_iter().flatten() {
            changes.closed.push((NAME.into(), bound.address));
        }
    }

    fn serve(&self, socket: impl Accept, runtime: &Handle, router: Router) -> oneshot::Sender<()> {
        let (open, closed) = oneshot::channel::<()>();
        let socket = Reserved::new(socket, Arc::clone(&self.reserve));
        runtime.spawn(async move {
            let serving = axum::serve(socket, router).with_graceful_shutdown(async {
                let _ = closed.await;
            });
            if let Err(error) = serving.await {
                tracing::error!(%error, "the admin side ended");
            }
        });
        open
    }

    /// See [`super::Admin::address`].
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.bound.first().map(|bound| bound.address)
    }
}

fn wanted(config: Option<&config::Admin>) -> Vec<Wanted> {
    config
        .map(|admin| Wanted::Tcp(admin.bind))
        .into_iter()
        .collect()
}
