//! Listeners at UNIX sockets: planned and applied with the others, and accepted from by
//! tasks of their own, so that nothing is added to what accepts TCP connections.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener as StdListener,
    },
    path::Path,
    sync::Arc,
};

use tokio::{net::UnixListener, sync::watch, task::JoinHandle};

use crate::{
    config::Config,
    connection::acceptor::{self, AcceptCommand},
    context::ServerContext,
    process::inherited::Inherited,
    socket_file::{SocketError, SocketFile},
};

/// A listener's name, and the path that it listens at.
pub type NamedPath = (Arc<str>, Arc<Path>);

/// All UNIX sockets of listeners.
#[derive(Debug, Default)]
pub(super) struct UnixSockets {
    bound: Vec<Bound>,
}

/// What a configuration asks for.
#[derive(Clone, Debug)]
struct Wanted {
    listener: Arc<str>,
    path: Arc<Path>,
    mode: u32,
}

#[derive(Debug)]
struct Bound {
    wanted: Wanted,
    socket: Arc<UnixListener>,
    file: SocketFile,
    command: watch::Sender<AcceptCommand>,
    task: JoinHandle<()>,
}

/// What is to change: all that can fail has been done.
#[derive(Debug)]
pub(super) struct Plan(Vec<(Wanted, Source)>);

#[derive(Debug)]
enum Source {
    /// The number of a socket that is bound already.
    Kept(usize),
    New(UnixListener, SocketFile),
}

/// What has changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) opened: Vec<NamedPath>,
    pub(super) closed: Vec<NamedPath>,
    /// Tasks that end.
    pub(super) leaving: Vec<(Arc<str>, JoinHandle<()>)>,
}

impl UnixSockets {
    /// Listens at what is new.
    ///
    /// # Errors
    /// All sockets that are not to be had. What was made is removed again.
    pub(super) fn plan(
        &self,
        config: &Config,
        inherited: &mut Inherited,
    ) -> Result<Plan, Vec<SocketError>> {
        let sources = wanted(config).into_iter().map(|wanted| {
            let kept = self.bound.iter().position(|bound| {
                bound.wanted.path == wanted.path && bound.wanted.listener == wanted.listener
            });
            let source = match kept {
                Some(number) => Source::Kept(number),
                None => listen(&wanted, inherited)?,
            };
            Ok((wanted, source))
        });
        super::all_or_errors(sources).map(Plan)
    }

    /// Carries out a plan that was made for the sockets as they are now.
    pub(super) fn apply(&mut self, plan: Plan, context: &Arc<ServerContext>) -> Changes {
        let mut changes = Changes::default();
        let mut earlier: Vec<_> = std::mem::take(&mut self.bound)
            .into_iter()
            .map(Some)
            .collect();
        for (wanted, source) in plan.0 {
            let bound = match source {
                Source::New(socket, file) => {
                    changes.opened.push(wanted.named());
                    Bound::start(wanted, Arc::new(socket), file, context)
                }
                Source::Kept(number) => match earlier.get_mut(number).and_then(Option::take) {
                    Some(bound) => bound.with(wanted),
                    // A plan names each of them at most once.
                    None => continue,
                },
            };
            self.bound.push(bound);
        }
        for bound in earlier.into_iter().flatten() {
            changes.closed.push(bound.wanted.named());
            changes.leaving.push(bound.close());
        }
        changes
    }

    /// Where they listen.
    pub(super) fn paths(&self) -> Vec<NamedPath> {
        self.bound
            .iter()
            .map(|bound| bound.wanted.named())
            .collect()
    }

    /// Copies of all of them for another process, and whether each is a balancer's own,
    /// whose file goes with the last one.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub(super) fn share(&self) -> io::Result<Vec<(bool, OwnedFd)>> {
        let bound = self.bound.iter();
        bound
            .map(|bound| {
                let copy = bound.socket.as_fd().try_clone_to_owned()?;
                Ok((bound.file.is_balancers(), copy))
            })
            .collect()
    }

    /// Leaves all of them to another process that has copies, but for those at `unused`.
    pub(super) fn leave(&mut self, unused: &[String]) -> Vec<(Arc<str>, JoinHandle<()>)> {
        let bound = std::mem::take(&mut self.bound).into_iter();
        bound
            .map(|bound| {
                let is_unused = unused
                    .iter()
                    .any(|path| Path::new(path) == &*bound.wanted.path);
                if is_unused {
                    bound.close()
                } else {
                    bound.hand_over()
                }
            })
            .collect()
    }

    /// Closes all of them.
    pub(super) fn close(&mut self) -> Vec<(Arc<str>, JoinHandle<()>)> {
        let bound = std::mem::take(&mut self.bound).into_iter();
        bound.map(Bound::close).collect()
    }

    /// Takes the files over from the predecessor, which has ended. Only now, as the
    /// predecessor continues with its own mode if an upgrade fails.
    pub(super) fn take_over(&mut self) {
        for bound in &mut self.bound {
            bound.file.take_over();
            bound.set_mode();
        }
    }
}

impl Wanted {
    fn named(&self) -> NamedPath {
        (Arc::clone(&self.listener), Arc::clone(&self.path))
    }
}

impl Bound {
    fn start(
        wanted: Wanted,
        socket: Arc<UnixListener>,
        file: SocketFile,
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
            socket,
            file,
            command,
            task: tokio::spawn(accepting),
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

    /// Removes the file first: nobody new can connect, and what has connected is accepted.
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
