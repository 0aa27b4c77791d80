//! A new program in place of the running one, with no connection refused or reset.
//!
//! The new process is started with copies of the listening sockets, reads the
//! configuration, probes the servers, and accepts connections beside the old one. Then
//! it says so, the old one accepts no more, and serves those that it has to their end.
//! A socket in the kernel is one, however many processes have it: what waits in its
//! queue is taken by whoever is left.
//!
//! Until the new process has said that it is ready, nothing has changed: if it fails,
//! ends or takes too long, the old one goes on.
//!
//! They talk over a socket pair rather than by signals: that works whatever the two may
//! do to each other, and its end is noticed.

pub mod channel;
mod earlier;
mod first;
mod program;

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::time::timeout;

use crate::{
    confinement,
    environment::{BY_HAND, LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, OLD, UPGRADE},
    overrides::OverrideHandover,
    process::notify,
};
use channel::{Channel, FromHeir, FromNew, FromOld, FromReplaced, Unused};
pub use earlier::{Earlier, News};
pub use first::{First, is_first};

/// How long a new process may take until it is ready.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Linux takes 128 KiB for a variable of the environment.
const MAX_VARIABLE: usize = 100_000;

/// The first descriptor that is passed: systemd's protocol says so.
const FIRST_FD: i32 = 3;

/// A socket that is passed on, by its name.
pub type Passed = (String, OwnedFd);

fn hint(path: &Path, error: &io::Error) -> String {
    let hint = confinement::hint_for_executing(path, error);
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

/// There is no new process, and the old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// There is no program to start.
    #[error("there is no program to start: {0}")]
    Program(io::Error),
    /// It could not be started.
    #[error("{} cannot be started: {source}{}", path.display(), hint(path, source))]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not start to serve, and said so.
    #[error("the new process cannot start: {}", .0.join("; "))]
    Failed(Vec<String>),
    /// It ended without a word.
    #[error("the new process ended before it was ready ({0})")]
    Ended(ExitStatus),
    /// It took too long, and was ended.
    #[error("the new process was not ready within {0:?} and was ended")]
    TimedOut(Duration),
    /// The operating system refuses something else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A new process that is ready to take over. Dropping it before it has been told to go
/// on ends it.
#[derive(Debug)]
pub struct Successor {
    child: Started,
    channel: Channel,
    /// What it was told that was set by hand.
    overrides: OverrideHandover,
    /// Sockets that it was given and has no use for.
    pub unused: Unused,
}

/// Ended and reaped when dropped.
#[derive(Debug)]
struct Started(Option<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            // It has been killed, so this does not take long.
            let _ = child.wait();
        }
    }
}

/// Starts the new program with `sockets` and what was set `overrides`, and waits until it
/// is ready, but no longer than `limit`.
///
/// # Cancel safety
/// Dropped, it ends the new process.
pub async fn start(
    sockets: Vec<Passed>,
    overrides: OverrideHandover,
    limit: Duration,
) -> Result<Successor, UpgradeError> {
    let path = program::path().map_err(UpgradeError::Program)?;
    let mut command = again(&path);
    match serde_json::to_string(&overrides) {
        Ok(text) if text.len() < MAX_VARIABLE => command.env(BY_HAND, text),
        // It will hear of it when it takes over.
        _ => command.env_remove(BY_HAND),
    };
    let successor = begin(command, path, sockets, limit).await?;
    Ok(Successor {
        overrides,
        ..successor
    })
}

/// The program at `path`, called as this process was.
fn again(path: &Path) -> Command {
    let mut command = Command::new(path);
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        // Tools show it.
        command.arg0(name);
    }
    command.args(arguments);
    command
}

async fn begin(
    mut command: Command,
    path: PathBuf,
    mut sockets: Vec<Passed>,
    limit: Duration,
) -> Result<Successor, UpgradeError> {
    let (ours, theirs) = UnixStream::pair()?;
    sockets.push((OLD.to_owned(), theirs.into()));
    pass(&mut command, sockets);
    // Copying the page tables of a large process takes a moment.
    let started = tokio::task::spawn_blocking(move || {
        // With the command, our copies of what was passed are closed: the socket's
        // other end is then the new process's alone.
        let child = command.spawn();
        child.map(|child| Started(Some(child)))
    });
    let spawned = started.await.map_err(io::Error::other)?;
    let mut child = spawned.map_err(|source| UpgradeError::Spawn { path, source })?;
    let mut channel = Channel::new(ours)?;
    match timeout(limit, channel.next()).await {
        Ok(Some(FromNew::Ready(unused))) => Ok(Successor {
            child,
            channel,
            overrides: OverrideHandover::default(),
            unused,
        }),
        Ok(Some(FromNew::Failed { reasons })) => Err(UpgradeError::Failed(reasons)),
        Ok(None) => match child.0.take() {
            Some(mut child) => {
                // What has begun to end does so as it began.
                let _ = child.kill();
                Err(UpgradeError::Ended(child.wait()?))
            }
            None => Err(io::Error::other("no process").into()),
        },
        Err(_) => Err(UpgradeError::TimedOut(limit)),
    }
}

/// Passes sockets on to a command, and says which they are.
fn pass(command: &mut Command, sockets: Vec<Passed>) {
    let (names, files): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
    let mappings = (FIRST_FD..)
        .zip(files)
        .map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        })
        .collect();
    command
        .env(LISTEN_FDS, names.len().to_string())
        .env(LISTEN_FDNAMES, names.join(":"))
        .env(UPGRADE, std::process::id().to_string())
        .env_remove(LISTEN_PID)
        .env_remove("LISTEN_FDS_FIRST_FD");
    if notify::patience().is_none() {
        command.env_remove(notify::WATCHDOG_USEC);
    }
    // It is for the new process now, whose ID is not known yet.
    command.env_remove(notify::WATCHDOG_PID);
    // Fails only if two have the same number.
    if command.fd_mappings(mappings).is_err() {
        tracing::error!("descriptors cannot be passed on");
    }
}

impl Successor {
    /// Its ID.
    pub fn pid(&self) -> u32 {
        self.child.0.as_ref().map_or(0, Child::id)
    }

    /// Tells it that it is the service now. From here on nothing ends it but itself.
    pub async fn go(mut self, reload: bool, overrides: OverrideHandover) -> Heir {
        // While it started, the old one was still asked for changes.
        let overrides = (overrides != self.overrides).then_some(overrides);
        let pid = self.pid();
        self.child.0 = None;
        let told = self.channel.say(&FromOld::Go { reload, overrides }).await;
        // It takes the end of the channel for the same.
        let channel = told.map(|()| self.channel).inspect_err(
            |error| tracing::warn!(%error, pid, "the new process was not told that it is the service now"),
        );
        Heir {
            pid: pid_of(pid),
            channel: channel.ok(),
        }
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The process that took over.
#[derive(Debug)]
pub struct Heir {
    pid: Option<Pid>,
    /// Until it has ended.
    channel: Option<Channel>,
}

impl Heir {
    /// Its ID.
    pub(crate) const fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Tells whoever is the newest process by now how many connections this one has, and
    /// returns whether there was anybody to be told.
    pub fn mention(&self, connections: usize) -> bool {
        let serves = FromReplaced::Serves {
            pid: std::process::id(),
            connections: u64::try_from(connections).unwrap_or(u64::MAX),
        };
        let channel = self.channel.as_ref();
        channel.is_some_and(|channel| channel.mention(&serves))
    }

    /// Passes a signal on to it.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, %pid, "a signal was not passed on");
        }
    }

    /// Waits for what it has to say.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn says(&mut self) -> FromHeir {
        if let Some(channel) = &mut self.channel {
            let said = channel.next().await;
            if let Some(FromHeir::TookOver { pid }) = said
                && pid_of(pid) != self.pid
            {
                // How the one that took this one's place ends does not matter any more.
                self.pid = None;
            }
            if let Some(said) = said {
                return said;
            }
            self.channel = None;
        }
        std::future::pending().await
    }

    /// Whether it has ended otherwise than by being told to. Leaves it to be reaped by
    /// whoever is this process's parent: a service manager wants to know how it ended.
    pub fn has_failed(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = self
            .pid
            .and_then(|pid| waitid(WaitId::Pid(pid), options).ok()?);
        ended.is_some_and(|ended| ended.exit_status() != Some(0))
    }
}

#[cfg(test)]
mod tests;
