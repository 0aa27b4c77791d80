//! UNIX sockets of listeners. They are planned and applied together with the TCP sockets, but have
//! their own accept tasks, so that they add no cost to accepting TCP connections.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener as StdListener,
    },
    path::Path,
    sync::Arc,
};

use leastconn_config::Config;
use tokio::{net::UnixListener, sync::watch, task::JoinHandle};

use crate::{
    connection::acceptor::{self, AcceptCommand},
    context::ServerContext,
    process::inherited::Inherited,
    socket_file::{SocketError, SocketFile},
};

/// The name of a listener, and the path of a UNIX socket that it listens on.
pub type NamedPath = (Arc<str>, Arc<Path>);

/// All UNIX sockets of listeners.
#[derive(Debug, Default)]
pub(super) struct UnixSockets {
    sockets: Vec<UnixSocket>,
}

/// A UNIX socket that a configuration listens on.
#[derive(Clone, Debug)]
struct Wanted {
    listener: Arc<str>,
    path: Arc<Path>,
    mode: u32,
}

#[derive(Debug)]
struct UnixSocket {
    wanted: Wanted,
    listener: Arc<UnixListener>,
    file: SocketFile,
    command: watch::Sender<AcceptCommand>,
    task: JoinHandle<()>,
}

/// The planned changes for a configuration. All steps that can fail are complete.
#[derive(Debug)]
pub(super) struct Plan(Vec<(Wanted, Source)>);

#[derive(Debug)]
enum Source {
    /// The index of an open socket.
    Kept(usize),
    New(UnixListener, SocketFile),
}

/// The result of applying a plan.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) opened: Vec<NamedPath>,
    pub(super) closed: Vec<NamedPath>,
    /// Listeners whose sockets are being closed, with the tasks that accept the rest of the backlog
    /// and then end.
    pub(super) ending: Vec<(Arc<str>, JoinHandle<()>)>,
}

impl UnixSockets {
    /// Plans the changes for `config`, and listens on new sockets.
    ///
    /// # Errors
    /// One error for each socket on which listening failed. New sockets are removed again.
    pub(super) fn plan(
        &self,
        config: &Config,
        inherited: &mut Inherited,
    ) -> Result<Plan, Vec<SocketError>> {
        let sources = wanted(config).into_iter().map(|wanted| {
            let kept = self.sockets.iter().position(|socket| {
                socket.wanted.path == wanted.path && socket.wanted.listener == wanted.listener
            });
            let source = match kept {
                Some(index) => Source::Kept(index),
                None => listen(&wanted, inherited)?,
            };
            Ok((wanted, source))
        });
        super::all_or_errors(sources).map(Plan)
    }

    /// Carries out a plan, which must have been made for the current sockets.
    pub(super) fn apply(&mut self, plan: Plan, context: &Arc<ServerContext>) -> Changes {
        let mut changes = Changes::default();
        let mut previous: Vec<_> = std::mem::take(&mut self.sockets)
            .into_iter()
            .map(Some)
            .collect();
        for (wanted, source) in plan.0 {
            let socket = match source {
                Source::New(listener, file) => {
                    changes.opened.push(wanted.named());
                    UnixSocket::start(wanted, Arc::new(listener), file, context)
                }
                Source::Kept(index) => match previous.get_mut(index).and_then(Option::take) {
                    Some(socket) => socket.with(wanted),
                    // Not reached: a plan contains each index at most once.
                    None => continue,
                },
            };
            self.sockets.push(socket);
        }
        for socket in previous.into_iter().flatten() {
            changes.closed.push(socket.wanted.named());
            changes.ending.push(socket.close());
        }
        changes
    }

    pub(super) fn paths(&self) -> Vec<NamedPath> {
        self.sockets
            .iter()
            .map(|socket| socket.wanted.named())
            .collect()
    }

    /// Duplicates all sockets for another process. The `bool` is true if a balancer owns the
    /// socket's file.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub(super) fn share(&self) -> io::Result<Vec<(bool, OwnedFd)>> {
        let sockets = self.sockets.iter();
        sockets
            .map(|socket| {
                let copy = socket.listener.as_fd().try_clone_to_owned()?;
                Ok((socket.file.is_balancers(), copy))
            })
            .collect()
    }

    /// Stops accepting, and leaves the files to a successor process, which accepts from copies of
    /// the sockets. Closes the sockets at `unused` paths.
    pub(super) fn hand_over(&mut self, unused: &[String]) -> Vec<(Arc<str>, JoinHandle<()>)> {
        let sockets = std::mem::take(&mut self.sockets).into_iter();
        sockets
            .map(|socket| {
                let is_unused = unused
                    .iter()
                    .any(|path| Path::new(path) == &*socket.wanted.path);
                if is_unused {
                    socket.close()
                } else {
                    socket.hand_over()
                }
            })
            .collect()
    }

    pub(super) fn close(&mut self) -> Vec<(Arc<str>, JoinHandle<()>)> {
        let sockets = std::mem::take(&mut self.sockets).into_iter();
        sockets.map(UnixSocket::close).collect()
    }

    /// Takes over the socket files that the predecessor has left. The mode of the files is changed
    /// only now, because the predecessor would need the old mode after a failed upgrade.
    pub(super) fn take_over(&mut self) {
        for socket in &mut self.sockets {
            socket.file.take_over();
            socket.set_mode();
        }
    }
}

impl Wanted {
    fn named(&self) -> NamedPath {
        (Arc::clone(&self.listener), Arc::clone(&self.path))
    }
}

impl UnixSocket {
    fn start(
        wanted: Wanted,
        listener: Arc<UnixListener>,
        file: SocketFile,
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
            listener,
            file,
            command,
            task: tokio::spawn(accept_loop),
        }
    }

    fn with(mut self, wanted: Wanted) -> Self {
        self.wanted = wanted;
        self.set_mode();
        self
    }

    fn set_mode(&self) {
        if let Err(error) = self.file.set_mode(self.wanted.mode) {
            let socket = self.wanted.path.display();
            tracing::error!(%socket, %error, "cannot change the mode of a UNIX socket");
        }
    }

    /// Removes the file first, so that no more clients can connect. Connections in the backlog are
    /// still accepted.
    fn close(self) -> (Arc<str>, JoinHandle<()>) {
        drop(self.file);
        self.command.send_replace(AcceptCommand::Close);
        (self.wanted.listener, self.task)
    }

    fn hand_over(self) -> (Arc<str>, JoinHandle<()>) {
        self.file.leave();
        self.command.send_replace(AcceptCommand::HandOver);
        (self.wanted.listener, self.task)
    }
}

fn listen(wanted: &Wanted, inherited: &mut Inherited) -> Result<Source, SocketError> {
    let (socket, file) = match inherited.take_unix(&wanted.path) {
        Some((socket, is_balancers)) => adopt(socket, wanted, is_balancers)?,
        None => SocketFile::listen(&wanted.path, wanted.mode)?,
    };
    Ok(Source::New(socket, file))
}

fn adopt(
    socket: StdListener,
    wanted: &Wanted,
    is_balancers: bool,
) -> Result<(UnixListener, SocketFile), SocketError> {
    SocketFile::adopt(socket, &wanted.path, is_balancers)
}

fn wanted(config: &Config) -> Vec<Wanted> {
    let mut all = Vec::new();
    for listener in &config.listeners {
        all.extend(listener.unix_binds.iter().map(|path| Wanted {
            listener: Arc::clone(&listener.name),
            path: Arc::clone(path),
            mode: listener.bind_mode,
        }));
    }
    all
}
