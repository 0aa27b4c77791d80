//! The listening sockets, and how they change with the configuration.
//!
//! A change is planned first: all new addresses are bound, and every error is found. Applying the
//! plan cannot fail. A socket whose address does not change is never closed, so clients in its
//! backlog are not affected.

pub mod bind;
mod plan;
mod unix;

use std::{
    collections::HashSet,
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use arc_swap::ArcSwap;
use leastconn::net;
use socket2::SockRef;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    connection::acceptor::{self, AcceptCommand},
    context::ServerContext,
    environment::{UNIX, UNIX_KEPT},
};
pub use bind::BindError;
pub use plan::{Plan, PlanError};
use plan::{Source, Wanted};
pub use unix::NamedPath;
use unix::UnixSockets;

/// All listening sockets of listeners.
#[derive(Debug, Default)]
pub struct Sockets {
    tcp: Vec<TcpSocket>,
    unix: UnixSockets,
    /// Listeners whose sockets are being closed, with the tasks that accept the rest of the backlog
    /// and then end.
    ending: Vec<(Arc<str>, JoinHandle<()>)>,
    addresses: Addresses,
}

/// The addresses of listeners, readable without waiting for a change in progress.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    tcp: Arc<ArcSwap<Vec<NamedAddress>>>,
    unix: Arc<ArcSwap<Vec<NamedPath>>>,
}

/// The name of a listener, and an address that it listens on.
type NamedAddress = (Arc<str>, SocketAddr);

#[derive(Debug)]
struct TcpSocket {
    wanted: Wanted,
    /// The bound address, with the port that the kernel chose.
    address: SocketAddr,
    listener: Arc<TcpListener>,
    command: watch::Sender<AcceptCommand>,
    task: JoinHandle<()>,
}

/// The result of applying a plan.
#[derive(Debug, Default)]
pub struct Changes {
    pub opened: Vec<(Arc<str>, SocketAddr)>,
    pub closed: Vec<(Arc<str>, SocketAddr)>,
    pub unix_opened: Vec<NamedPath>,
    pub unix_closed: Vec<NamedPath>,
}

impl Sockets {
    /// Carries out a plan, which must have been made for the current sockets.
    pub fn apply(&mut self, plan: Plan, context: &Arc<ServerContext>) -> Changes {
        let mut changes = Changes::default();
        let mut previous: Vec<_> = mem::take(&mut self.tcp).into_iter().map(Some).collect();
        for (wanted, source) in plan.tcp {
            let socket = match source {
                Source::New(listener, address) => {
                    changes.opened.push((Arc::clone(&wanted.listener), address));
                    TcpSocket::start(wanted, address, Arc::new(listener), context)
                }
                Source::Kept(index) => match previous.get_mut(index).and_then(Option::take) {
                    Some(socket) => self.keep(socket, wanted, context),
                    // Not reached: a plan contains each index at most once.
                    None => continue,
                },
            };
            self.tcp.push(socket);
        }
        for socket in previous.into_iter().flatten() {
            let listener = &socket.wanted.listener;
            changes.closed.push((Arc::clone(listener), socket.address));
            self.close(socket);
        }
        let unix = self.unix.apply(plan.unix, context);
        self.ending.extend(unix.ending);
        changes.unix_opened = unix.opened;
        changes.unix_closed = unix.closed;
        self.publish();
        changes
    }

    /// Keeps a socket open. Its keepalive setting or its listener may change.
    fn keep(
        &mut self,
        socket: TcpSocket,
        wanted: Wanted,
        context: &Arc<ServerContext>,
    ) -> TcpSocket {
        if socket.wanted.keepalive != wanted.keepalive {
            // Accepted sockets inherit the keepalive setting of the listening socket.
            let listener = &*socket.listener;
            let changed = match wanted.keepalive {
                Some(idle) => net::set_keepalive(listener, idle),
                None => SockRef::from(listener).set_keepalive(false),
            };
            if let Err(error) = changed {
                tracing::error!(%error, listener = &*wanted.listener, "cannot change keepalive of listening socket");
            }
        }
        if socket.wanted.listener == wanted.listener {
            return TcpSocket { wanted, ..socket };
        }
        let listener = Arc::clone(&socket.listener);
        let next = TcpSocket::start(wanted, socket.address, listener, context);
        self.hand_over_socket(socket);
        next
    }

    fn hand_over_socket(&mut self, socket: TcpSocket) {
        socket.command.send_replace(AcceptCommand::HandOver);
        self.ending.push((socket.wanted.listener, socket.task));
    }

    fn close(&mut self, socket: TcpSocket) {
        socket.command.send_replace(AcceptCommand::Close);
        self.ending.push((socket.wanted.listener, socket.task));
    }

    fn publish(&self) {
        let sockets = self.tcp.iter();
        let tcp = sockets.map(|socket| (Arc::clone(&socket.wanted.listener), socket.address));
        self.addresses.tcp.store(Arc::new(tcp.collect()));
        self.addresses.unix.store(Arc::new(self.unix.paths()));
    }

    /// The names of removed listeners whose backlog is still being accepted.
    pub fn leaving(&mut self) -> HashSet<Arc<str>> {
        self.ending.retain(|(_, task)| !task.is_finished());
        let names = self.ending.iter().map(|(name, _)| Arc::clone(name));
        names.collect()
    }

    /// Duplicates all sockets for another process, each with its name there.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn share(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let sockets = self.tcp.iter();
        let tcp = sockets.map(|socket| {
            let copy = socket.listener.as_fd().try_clone_to_owned()?;
            Ok((socket.wanted.listener.to_string(), copy))
        });
        let mut all = tcp.collect::<io::Result<Vec<_>>>()?;
        for (is_balancers, copy) in self.unix.share()? {
            let name = if is_balancers { UNIX } else { UNIX_KEPT };
            all.push((name.to_owned(), copy));
        }
        Ok(all)
    }

    /// Stops accepting, because a successor process accepts from copies of the sockets. Closes the
    /// sockets that the successor does not use. Returns the tasks to wait for.
    pub fn hand_over(
        &mut self,
        unused: &[SocketAddr],
        unused_paths: &[String],
    ) -> Vec<JoinHandle<()>> {
        self.ending.extend(self.unix.hand_over(unused_paths));
        for socket in mem::take(&mut self.tcp) {
            if unused.contains(&socket.address) {
                self.close(socket);
            } else {
                self.hand_over_socket(socket);
            }
        }
        self.close_all()
    }

    /// Closes all sockets. Each socket is closed once its accept task has ended. Returns these
    /// tasks.
    pub fn close_all(&mut self) -> Vec<JoinHandle<()>> {
        for socket in mem::take(&mut self.tcp) {
            self.close(socket);
        }
        self.ending.extend(self.unix.close());
        self.publish();
        let ending = mem::take(&mut self.ending);
        ending.into_iter().map(|(_, task)| task).collect()
    }

    /// Takes the files of UNIX sockets over from the predecessor.
    pub fn activate(&mut self) {
        self.unix.take_over();
    }

    /// Returns a handle that reads the current addresses at any time.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }
}

impl Addresses {
    /// Each listener's name and bound address, in the order of the configuration.
    pub fn now(&self) -> Arc<Vec<NamedAddress>> {
        self.tcp.load_full()
    }

    /// Each listener's name and UNIX socket, in the order of the configuration.
    pub fn paths(&self) -> Arc<Vec<NamedPath>> {
        self.unix.load_full()
    }
}

impl TcpSocket {
    fn start(
        wanted: Wanted,
        address: SocketAddr,
        listener: Arc<TcpListener>,
        context: &Arc<ServerContext>,
    ) -> Self {
        let command = watch::Sender::new(AcceptCommand::Accept);
        let accept_loop = acceptor::accept_loop(
            Arc::clone(&listener),
            Arc::clone(&wanted.listener),
            Arc::clone(context),
            command.subscribe(),
        );
        Self {
            wanted,
            address,
            listener,
            command,
            task: tokio::spawn(accept_loop),
        }
    }
}

/// Returns all values, or all errors if there are any.
pub(crate) fn all_or_errors<T, E>(
    results: impl Iterator<Item = Result<T, E>>,
) -> Result<Vec<T>, Vec<E>> {
    let mut values = Vec::new();
    let mut errors = Vec::new();
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(values)
    } else {
        Err(errors)
    }
}

#[cfg(test)]
mod tests;
