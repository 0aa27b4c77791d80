//! The sockets that are listened at, and what changes about them when the
//! configuration does.
//!
//! A change is planned first, with every new address bound, and only then carried
//! out, which cannot fail. A socket whose address stays is never closed, whatever
//! else changes: clients in its queue do not notice.

pub mod bind;
mod unix;

use std::{
    collections::HashSet,
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use leastconn::net;
use socket2::SockRef;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    config::Config,
    connection::acceptor::{self, AcceptCommand},
    context::ServerContext,
    environment::{UNIX, UNIX_KEPT},
    process::inherited::Inherited,
    socket_file::SocketError,
};
pub use bind::BindError;
pub use unix::NamedPath;
use unix::UnixSockets;

/// All sockets that are listened at.
#[derive(Debug, Default)]
pub struct Sockets {
    bound: Vec<Bound>,
    /// Told to take what has come already and end.
    leaving: Vec<(Arc<str>, JoinHandle<()>)>,
    addresses: Addresses,
    unix: UnixSockets,
}

/// Where listeners listen, for those who only look: they wait for nobody who changes
/// the sockets, which may take long.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    tcp: Arc<ArcSwap<Vec<Named>>>,
    unix: Arc<ArcSwap<Vec<NamedPath>>>,
}

/// A listener's name, and an address that it listens at.
type Named = (Arc<str>, SocketAddr);

/// One of the addresses that a configuration listens at.
#[derive(Clone, Debug)]
struct Wanted {
    listener: Arc<str>,
    address: SocketAddr,
    only_v6: bool,
    keepalive: Option<Duration>,
}

#[derive(Debug)]
struct Bound {
    wanted: Wanted,
    /// With the port that the system chose.
    address: SocketAddr,
    socket: Arc<TcpListener>,
    command: watch::Sender<AcceptCommand>,
    task: JoinHandle<()>,
}

/// What is to change: all that can fail has been done.
#[derive(Debug)]
pub struct Plan {
    tcp: Vec<(Wanted, Source)>,
    unix: unix::Plan,
}

#[derive(Debug)]
enum Source {
    /// The number of a socket that is bound already.
    Kept(usize),
    New(TcpListener, SocketAddr),
}

/// A configuration's addresses cannot be listened at.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There are no more descriptors.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A UNIX socket cannot be made.
    #[error(transparent)]
    Unix(#[from] SocketError),
    /// One that this process listens at already is in the way.
    #[error(
        "listener `{listener}` cannot listen on {address}: this process listens at {at}, which is in the way; that change needs a restart"
    )]
    Overlaps {
        /// The listener.
        listener: Arc<str>,
        /// What was wanted.
        address: SocketAddr,
        /// What is in the way.
        at: SocketAddr,
    },
    /// Linux does not let a socket change that.
    #[error(
        "listener `{listener}`: whether {address} takes IPv4 connections too changes with its neighbour, which needs a restart"
    )]
    OnlyV6 {
        /// The listener.
        listener: Arc<str>,
        /// The IPv6 address.
        address: SocketAddr,
    },
}

/// What has changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Sockets that are listened at from now on.
    pub opened: Vec<(Arc<str>, SocketAddr)>,
    /// Those that are not any more.
    pub closed: Vec<(Arc<str>, SocketAddr)>,
    /// UNIX sockets that are listened at from now on.
    pub unix_opened: Vec<NamedPath>,
    /// Those that are not any more.
    pub unix_closed: Vec<NamedPath>,
}

impl Sockets {
    /// Works out what has to change for `config`, and binds what is new, unless it
    /// was `inherited`.
    ///
    /// # Errors
    /// All addresses that are not to be had. What was bound is closed again.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn plan(&self, config: &Config, inherited: &mut Inherited) -> Result<Plan, Vec<PlanError>> {
        let wanted = wanted(config);
        let mut kept: Vec<Option<usize>> = vec![None; wanted.len()];
        // Those that keep their listener have first choice. A port that the system
        // chose belongs to its listener; any other may go on under a new name.
        for same_listener in [true, false] {
            for (position, wanted) in wanted.iter().enumerate() {
                if kept[position].is_some() {
                    continue;
                }
                let found = self.bound.iter().enumerate().find(|(number, bound)| {
                    let same = bound.wanted.listener == wanted.listener;
                    bound.wanted.address == wanted.address
                        && (same || (!same_listener && wanted.address.port() != 0))
                        && !kept.contains(&Some(*number))
                });
                kept[position] = found.map(|(number, _)| number);
            }
        }
        let sources = wanted.into_iter().zip(kept).map(|(wanted, kept)| {
            let from = match kept {
                Some(number) if self.bound[number].wanted.only_v6 != wanted.only_v6 => {
                    Err(PlanError::OnlyV6 {
                        listener: Arc::clone(&wanted.listener),
                        address: wanted.address,
                    })
                }
                Some(number) => Ok(Source::Kept(number)),
                None => match inherited.take_tcp(&wanted.listener, wanted.address) {
                    Some(socket) => adopt(&wanted, socket, inherited.is_upgrade()),
                    None => self.bind(&wanted, inherited),
                },
            };
            Ok((wanted, from?))
        });
        let tcp = all_or_errors(sources);
        let unix = self.unix.plan(config, inherited);
        let unix = unix.map_err(|errors| errors.into_iter().map(PlanError::from).collect());
        match (tcp, unix) {
            (Ok(tcp), Ok(unix)) => Ok(Plan { tcp, unix }),
            (Err(mut errors), Err(more)) => {
                errors.extend::<Vec<PlanError>>(more);
                Err(errors)
            }
            (Err(errors), _) | (_, Err(errors)) => Err(errors),
        }
    }

    fn bind(&self, wanted: &Wanted, inherited: &Inherited) -> Result<Source, PlanError> {
        let bound = bind::bind(
            &wanted.listener,
            wanted.address,
            wanted.only_v6,
            wanted.keepalive,
        )
        .and_then(|socket| {
            new(socket).map_err(|error| BindError::new(&wanted.listener, wanted.address, error))
        });
        bound.map_err(|error| {
            let port = wanted.address.port();
            let ours = self.bound.iter().map(|bound| bound.address);
            let in_the_way = ours
                .chain(inherited.in_the_way(port))
                .find(|at| error.is_in_use() && at.port() == port);
            match in_the_way {
                Some(at) => PlanError::Overlaps {
                    listener: Arc::clone(&wanted.listener),
                    address: wanted.address,
                    at,
                },
                None => error.into(),
            }
        })
    }

    /// Carries out a plan that was made for the sockets as they are now.
    pub fn apply(&mut self, plan: Plan, context: &Arc<ServerContext>) -> Changes {
        let mut changes = Changes::default();
        let mut earlier: Vec<_> = mem::take(&mut self.bound).into_iter().map(Some).collect();
        for (wanted, from) in plan.tcp {
            let bound = match from {
                Source::New(socket, address) => {
                    changes.opened.push((Arc::clone(&wanted.listener), address));
                    Bound::start(wanted, address, Arc::new(socket), context)
                }
                Source::Kept(number) => match earlier.get_mut(number).and_then(Option::take) {
                    Some(bound) => self.go_on(bound, wanted, context),
                    // A plan names each of them at most once.
                    None => continue,
                },
            };
            self.bound.push(bound);
        }
        for bound in earlier.into_iter().flatten() {
            let listener = &bound.wanted.listener;
            changes.closed.push((Arc::clone(listener), bound.address));
            self.close(bound);
        }
        let unix = self.unix.apply(plan.unix, context);
        self.leaving.extend(unix.leaving);
        changes.unix_opened = unix.opened;
        changes.unix_closed = unix.closed;
        self.publish();
        changes
    }

    fn go_on(&mut self, bound: Bound, wanted: Wanted, context: &Arc<ServerContext>) -> Bound {
        if bound.wanted.keepalive != wanted.keepalive {
            // What is accepted from now on has it.
            let socket = &*bound.socket;
            let set = match wanted.keepalive {
                Some(idle) => net::set_keepalive(socket, idle),
                None => SockRef::from(socket).set_keepalive(false),
            };
            if let Err(error) = set {
                tracing::error!(%error, listener = &*wanted.listener, "keepalive stays as it was");
            }
        }
        if bound.wanted.listener == wanted.listener {
            return Bound { wanted, ..bound };
        }
        let next = Bound::start(wanted, bound.address, Arc::clone(&bound.socket), context);
        self.hand_over(bound);
        next
    }

    fn hand_over(&mut self, bound: Bound) {
        bound.command.send_replace(AcceptCommand::HandOver);
        self.leaving.push((bound.wanted.listener, bound.task));
    }

    fn publish(&self) {
        let bound = self.bound.iter();
        let all = bound.map(|bound| (Arc::clone(&bound.wanted.listener), bound.address));
        self.addresses.tcp.store(Arc::new(all.collect()));
        self.addresses.unix.store(Arc::new(self.unix.paths()));
    }

    fn close(&mut self, bound: Bound) {
        bound.command.send_replace(AcceptCommand::Close);
        self.leaving.push((bound.wanted.listener, bound.task));
    }

    /// The listeners that are gone for which connections may still be accepted.
    pub fn leaving(&mut self) -> HashSet<Arc<str>> {
        self.leaving.retain(|(_, task)| !task.is_finished());
        let names = self.leaving.iter().map(|(name, _)| Arc::clone(name));
        names.collect()
    }

    /// Copies of all of them for another process, with the listeners' names.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn share(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let bound = self.bound.iter();
        let tcp = bound.map(|bound| {
            let copy = bound.socket.as_fd().try_clone_to_owned()?;
            Ok((bound.wanted.listener.to_string(), copy))
        });
        let mut all = tcp.collect::<io::Result<Vec<_>>>()?;
        for (is_balancers, copy) in self.unix.share()? {
            let name = if is_balancers { UNIX } else { UNIX_KEPT };
            all.push((name.to_owned(), copy));
        }
        Ok(all)
    }

    /// Leaves all of them to another process that has copies, but for those at
    /// `unused`, which it has closed and which are closed here, too. Returns the tasks
    /// to wait for.
    pub fn leave(&mut self, unused: &[SocketAddr], unused_paths: &[String]) -> Vec<JoinHandle<()>> {
        self.leaving.extend(self.unix.leave(unused_paths));
        for bound in mem::take(&mut self.bound) {
            if unused.contains(&bound.address) {
                self.close(bound);
            } else {
                self.hand_over(bound);
            }
        }
        self.close_all()
    }

    /// Closes all of them, and returns the tasks to wait for: a socket is closed
    /// once its task has ended.
    pub fn close_all(&mut self) -> Vec<JoinHandle<()>> {
        for bound in mem::take(&mut self.bound) {
            self.close(bound);
        }
        self.leaving.extend(self.unix.close());
        self.publish();
        let leaving = mem::take(&mut self.leaving);
        leaving.into_iter().map(|(_, task)| task).collect()
    }

    /// The process before this one has left its UNIX sockets.
    pub fn begin(&mut self) {
        self.unix.take_over();
    }

    /// Where they listen, now and after each change.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }
}

impl Addresses {
    /// Each listener's name and bound address, in the configuration's order, as they
    /// were after the last change.
    pub fn now(&self) -> Arc<Vec<Named>> {
        self.tcp.load_full()
    }

    /// The same of UNIX sockets.
    pub fn paths(&self) -> Arc<Vec<NamedPath>> {
        self.unix.load_full()
    }
}

impl Bound {
    fn start(
        wanted: Wanted,
        address: SocketAddr,
        socket: Arc<TcpListener>,
        context: &Arc<ServerContext>,
    ) -> Self {
        let command = watch::Sender::new(AcceptCommand::Accept);
        let accepting = acceptor::accept_loop(
            Arc::clone(&socket),
            Arc::clone(&wanted.listener),
            Arc::clone(context),
            command.subscribe(),
        );
        Self {
            wanted,
            address,
            socket,
            command,
            task: tokio::spawn(accepting),
        }
    }
}

/// All of them, or else everything that is wrong.
pub(crate) fn all_or_errors<T, E>(
    results: impl Iterator<Item = Result<T, E>>,
) -> Result<Vec<T>, Vec<E>> {
    let mut all = Vec::new();
    let mut errors = Vec::new();
    for result in results {
        match result {
            Ok(one) => all.push(one),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(all)
    } else {
        Err(errors)
    }
}

/// A socket that somebody else has opened.
fn adopt(
    wanted: &Wanted,
    socket: std::net::TcpListener,
    upgrade: bool,
) -> Result<Source, PlanError> {
    let adopt = || {
        bind::adopt(&socket, wanted.keepalive)?;
        let only_v6 = match wanted.address {
            SocketAddr::V6(address) if address.ip().is_unspecified() => {
                SockRef::from(&socket).only_v6()?
            }
            _ => wanted.only_v6,
        };
        // From systemd it is as somebody wants it to be (`BindIPv6Only=`). Of ours,
        // the neighbour has come or gone, and clients would go where they should not.
        if upgrade && only_v6 != wanted.only_v6 {
            return Ok(None);
        }
        new(socket).map(Some)
    };
    let adopted = adopt();
    adopted
        .map_err(|error| BindError::new(&wanted.listener, wanted.address, error))?
        .ok_or_else(|| PlanError::OnlyV6 {
            listener: Arc::clone(&wanted.listener),
            address: wanted.address,
        })
}

fn new(socket: std::net::TcpListener) -> io::Result<Source> {
    let address = socket.local_addr()?;
    Ok(Source::New(TcpListener::from_std(socket)?, address))
}

fn wanted(config: &Config) -> Vec<Wanted> {
    let mut all = Vec::new();
    for listener in &config.listeners {
        all.extend(listener.binds.iter().map(|&address| Wanted {
            listener: Arc::clone(&listener.name),
            address,
            only_v6: has_v4_sibling(config, address),
            keepalive: listener.keepalive,
        }));
    }
    all
}

/// Whether an IPv6 wildcard address has an IPv4 one of the same port beside it,
/// which it must leave IPv4 connections to.
fn has_v4_sibling(config: &Config, address: SocketAddr) -> bool {
    let mut all = config.listeners.iter().flat_map(|listener| &listener.binds);
    address.is_ipv6()
        && all.any(|other| other.is_ipv4() && other.port() == address.port() && other.port() != 0)
}

#[cfg(test)]
mod tests;
