//! Sockets of the admin side. Each socket is served by its own task.

use std::{
    fmt,
    future::Future,
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    pin::pin,
    sync::Arc,
};

use axum::Router;
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    accept::Accept,
    reserve::{Reserve, Reserved},
    serve::{self, Activities},
};
use crate::{
    environment,
    process::inherited::Inherited,
    process::upgrade::Passed,
    socket_file::{SocketError, SocketFile},
    sockets::{self, all_or_errors},
    sockets::{BindError, bind},
};

/// A configured address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A bound address of the admin side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// TCP address, with the port that the kernel chose if the configured port is 0.
    Address(SocketAddr),
    /// Path of a UNIX socket.
    Socket(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// A bound socket that is not served yet.
#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket, _) => socket.as_fd(),
            Self::Unix(socket, _) => socket.as_fd(),
        }
    }
}

#[derive(Debug)]
struct Bound {
    wanted: Wanted,
    place: Place,
    /// The file of a UNIX socket. Dropping it removes the file.
    file: Option<SocketFile>,
    /// A duplicate of the socket, to be passed to a successor process.
    copy: OwnedFd,
    /// Dropping this sender stops accepting. Pending requests are still answered.
    open: oneshot::Sender<()>,
    /// The task that accepts connections.
    task: JoinHandle<()>,
}

#[derive(Debug)]
pub(super) struct Listening {
    bound: Vec<Bound>,
    reserve: Arc<Reserve>,
    /// The sockets start accepting when this becomes true.
    begun: watch::Sender<bool>,
    /// Each open connection holds a receiver, so that [`Self::answered`] can wait for all of them.
    answering: watch::Sender<()>,
}

/// The admin side cannot listen at a configured address.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Address(#[from] sockets::PlanError),
    #[error("`[admin] socket`: {0}")]
    Socket(#[from] SocketError),
    /// The process is out of file descriptors.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Addresses opened and closed by a change.
#[derive(Debug, Default)]
pub struct Changes {
    pub opened: Vec<Place>,
    pub closed: Vec<Place>,
}

/// A planned change. All steps that can fail are complete.
#[derive(Debug)]
pub struct Plan(Vec<(Wanted, Source)>);

#[derive(Debug)]
enum Source {
    /// Index of a socket that is already bound.
    Kept(usize),
    New(Socket, OwnedFd),
}

impl Listening {
    pub(super) fn new(reserve: Arc<Reserve>) -> Self {
        Self {
            bound: Vec::new(),
            reserve,
            begun: watch::Sender::new(false),
            answering: watch::Sender::new(()),
        }
    }

    /// See [`super::Admin::plan`]. Must be called within the admin runtime.
    pub(super) fn plan(
        &self,
        config: Option<&leastconn_config::Admin>,
        inherited: &mut Inherited,
    ) -> Result<Plan, Vec<PlanError>> {
        let sources = wanted(config).into_iter().map(|wanted| {
            let kept = self.bound.iter().position(|bound| {
                // Do not keep a socket whose file was removed, because the file must be created
                // again.
                bound.wanted == wanted && bound.file.as_ref().is_none_or(SocketFile::is_there)
            });
            let from = match kept {
                Some(number) => Source::Kept(number),
                None => self.open(&wanted, inherited)?,
            };
            Ok((wanted, from))
        });
        all_or_errors(sources).map(Plan)
    }

    fn open(&self, wanted: &Wanted, inherited: &mut Inherited) -> Result<Source, PlanError> {
        let socket = match wanted {
            Wanted::Tcp(address) => self.open_address(*address, inherited)?,
            Wanted::Unix(path) => {
                let (socket, file) = match inherited.take_unix(path) {
                    Some((socket, is_balancers)) => {
                        let adopted = SocketFile::adopt(socket, path, is_balancers)?;
                        if adopted.1.is_open_to_all() {
                            tracing::warn!(
                                socket = %path.display(),
                                "admin socket is accessible to all local users: set `SocketMode=0600` in its systemd unit"
                            );
                        }
                        adopted
                    }
                    None => SocketFile::listen(path, 0o600)?,
                };
                Socket::Unix(socket, file)
            }
        };
        let copy = socket.as_fd().try_clone_to_owned()?;
        Ok(Source::New(socket, copy))
    }

    fn open_address(
        &self,
        address: SocketAddr,
        inherited: &mut Inherited,
    ) -> Result<Socket, sockets::PlanError> {
        let open = |socket: std::net::TcpListener| {
            let address = socket.local_addr()?;
            io::Result::Ok(Socket::Tcp(TcpListener::from_std(socket)?, address))
        };
        let open = |socket| open(socket).map_err(|error| BindError::of_admin(address, error));
        if let Some(socket) = inherited.take_tcp(environment::ADMIN, address) {
            let adopted = bind::adopt(&socket, None);
            adopted.map_err(|error| BindError::of_admin(address, error))?;
            return Ok(open(socket)?);
        }
        bind::bind_admin(address).and_then(open).map_err(|error| {
            let in_the_way = self
                .address()
                .filter(|bound| error.is_in_use() && bound.port() == address.port());
            match in_the_way {
                Some(at) => sockets::PlanError::Overlaps {
                    listener: bind::ADMIN_KEY.into(),
                    address,
                    at,
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
    ) -> Changes {
        let mut changes = Changes::default();
        let mut earlier: Vec<_> = mem::take(&mut self.bound).into_iter().map(Some).collect();
        for (wanted, from) in plan.0 {
            let bound = match from {
                Source::Kept(number) => earlier.get_mut(number).and_then(Option::take),
                Source::New(socket, copy) => {
                    let ((open, task), place, file) = match socket {
                        Socket::Tcp(socket, address) => {
                            let served = self.serve(socket, runtime, router());
                            (served, Place::Address(address), None)
                        }
                        Socket::Unix(socket, file) => {
                            let served = self.serve(socket, runtime, router());
                            (served, Place::Socket(file.path().to_owned()), Some(file))
                        }
                    };
                    changes.opened.push(place.clone());
                    Some(Bound {
                        wanted,
                        place,
                        file,
                        copy,
                        open,
                        task,
                    })
                }
            };
            // Each kept socket occurs once in a plan.
            self.bound.extend(bound);
        }
        let closed = earlier.into_iter().flatten();
        changes.closed = closed.map(|bound| bound.place.clone()).collect();
        changes
    }

    fn serve(
        &self,
        socket: impl Accept,
        runtime: &Handle,
        router: Router,
    ) -> (oneshot::Sender<()>, JoinHandle<()>) {
        let (open, closed) = oneshot::channel::<()>();
        let socket = Reserved::new(socket, Arc::clone(&self.reserve));
        let begun = self.begun.subscribe();
        let answering = self.answering.clone();
        let task = runtime.spawn(accept_until(socket, router, begun, answering, closed));
        (open, task)
    }

    /// See [`super::Admin::address`].
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.bound.iter().find_map(|bound| match &bound.place {
            Place::Address(address) => Some(*address),
            Place::Socket(_) => None,
        })
    }

    /// See [`super::Admin::places`].
    pub(super) fn places(&self) -> Vec<Place> {
        self.bound.iter().map(|bound| bound.place.clone()).collect()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    /// See [`super::Admin::share`].
    pub(super) fn share(&self) -> io::Result<Vec<Passed>> {
        let copies = self.bound.iter();
        copies
            .map(|bound| {
                let file = bound.file.as_ref();
                let name = if file.is_none_or(SocketFile::is_balancers) {
                    environment::ADMIN
                } else {
                    environment::ADMIN_KEPT
                };
                Ok((name.to_owned(), bound.copy.try_clone()?))
            })
            .collect()
    }

    /// See [`super::Admin::begin`].
    pub(super) fn begin(&mut self) {
        self.begun.send_replace(true);
        let files = self
            .bound
            .iter_mut()
            .filter_map(|bound| bound.file.as_mut());
        files.for_each(SocketFile::take_over);
    }

    /// See [`super::Admin::leave`].
    pub(super) fn leave(&mut self, unused: &[String]) -> Vec<JoinHandle<()>> {
        let mut leaving = Vec::new();
        for bound in self.bound.drain(..) {
            drop(bound.open);
            leaving.push(bound.task);
            let kept = bound.file.filter(|file| {
                let at = file.path().to_str();
                !unused.iter().any(|unused| Some(&**unused) == at)
            });
            if let Some(file) = kept {
                file.leave();
            }
        }
        leaving
    }

    /// See [`super::Admin::close`].
    pub(super) fn close(&mut self) -> Vec<JoinHandle<()>> {
        self.bound.drain(..).map(|bound| bound.task).collect()
    }

    /// See [`super::Admin::answered`].
    pub(super) fn answered(&self) -> impl Future<Output = ()> + Send + use<> {
        let answering = self.answering.clone();
        async move { answering.closed().await }
    }
}

/// Accepts connections from when `begun` becomes true until `closed` completes. Connections that
/// are open at that time are served until they end.
async fn accept_until(
    mut socket: Reserved<impl Accept>,
    router: Router,
    mut begun: watch::Receiver<bool>,
    answering: watch::Sender<()>,
    closed: oneshot::Receiver<()>,
) {
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut activities = Activities::default();
    let mut closed = pin!(closed);
    tokio::select! {
        _ = &mut closed => return,
        _ = begun.wait_for(|&begun| begun) => {}
    }
    loop {
        let is_full = activities.count() >= serve::MAX_CONNECTIONS;
        // `activities` does not count evicted connections, which may still be sending the end of a
        // response.
        let has_room =
            !is_full || activities.has_idle() && connections.len() < 2 * serve::MAX_CONNECTIONS;
        tokio::select! {
            biased;
            // Stop when a message is sent or the sender is dropped. A successor accepts later
            // connections.
            _ = &mut closed => break,
            // If the task panicked, the panic has been logged.
            Some(_) = connections.join_next() => {}
            () = activities.becomes_idle(), if !has_room => {}
            (io, caller) = socket.accept(), if has_room => {
                if is_full {
                    activities.evict();
                }
                let activity = activities.add();
                let closing = closing.subscribe();
                let connection = serve::connection(io, caller, router.clone(), closing, activity);
                let answering = answering.subscribe();
                connections.spawn(async move {
                    connection.await;
                    drop(answering);
                });
            }
        }
    }
    closing.send_replace(true);
    connections.detach_all();
}

fn wanted(config: Option<&leastconn_config::Admin>) -> Vec<Wanted> {
    let Some(config) = config else {
        return Vec::new();
    };
    let address = config.bind.map(Wanted::Tcp);
    let socket = config.socket.clone().map(Wanted::Unix);
    address.into_iter().chain(socket).collect()
}
