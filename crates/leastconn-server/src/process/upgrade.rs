//! Upgrade to a new binary (SIGUSR2) without refusing or resetting a connection.
//!
//! 1. [`start`] runs the new binary with copies of the listening sockets and one end of a
//!    socket pair. The successor loads the configuration, probes the servers, accepts
//!    connections alongside this process, and sends `ready`. If it fails, exits or times out,
//!    this process continues unchanged.
//! 2. This process stops accepting and sends `go`. The backlog is shared, so the successor accepts
//!    the waiting connections. From then on, the successor provides the service.
//! 3. This process serves its open connections until they end. Over the same socket pair, the
//!    successor forwards reloads, kills and requests to reopen log files, because they also apply
//!    to these connections. This process reports how many connections it still has.
//! 4. At the next upgrade, the successor passes its ends of all these socket pairs to its own
//!    successor, so the newest process always talks to all [`PredecessorChannels`] directly.
//! 5. A predecessor that is PID 1 of a container must not exit before the newest process, because
//!    the kernel would then kill all processes of the container; see [`Pid1`].

pub mod channel;
mod pid1;
mod predecessors;
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
use leastconn_config::confinement;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::time::timeout;

use crate::{
    environment::{
        DISCOVERED, LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, OLD, OVERRIDES, SENT_OVERRIDES, UPGRADE,
    },
    overrides::OverrideHandover,
    process::notify,
    upstream::DiscoveryHandover,
};
use channel::{
    Channel, NewestMessage, PredecessorMessage, PredecessorStatus, StartMessage, UnusedSockets,
};
pub use pid1::{Pid1, is_pid1};
pub use predecessors::{PredecessorChannels, Updates};

/// Time limit for a successor to become ready.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum size of an environment variable that is passed to a successor, in bytes. It is below the
/// Linux limit of 128 KiB.
const MAX_VARIABLE: usize = 100_000;

/// Number of the first passed descriptor, as in systemd's protocol.
const FIRST_FD: i32 = 3;

/// A descriptor to pass, with its name in `LISTEN_FDNAMES`.
pub type Passed = (String, OwnedFd);

fn hint(path: &Path, error: &io::Error) -> String {
    let hint = confinement::hint_for_executing(path, error);
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

/// A failed upgrade. This process continues.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("no program to start: {0}")]
    Program(io::Error),
    #[error("cannot start {}: {source}{}", path.display(), hint(path, source))]
    Spawn { path: PathBuf, source: io::Error },
    /// The successor reported errors.
    #[error("the new process cannot start: {}", .0.join("; "))]
    Failed(Vec<String>),
    /// The successor exited without a report.
    #[error("the new process exited before it was ready ({0})")]
    Ended(ExitStatus),
    /// The successor was killed after the time limit.
    #[error("the new process was not ready within {0:?} and was killed")]
    TimedOut(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A successor that is ready to take over. Dropping it kills the process, unless [`go`](Self::go)
/// was called.
#[derive(Debug)]
pub struct ReadySuccessor {
    child: Started,
    channel: Channel,
    /// Overrides that the successor was started with.
    overrides: OverrideHandover,
    /// Passed sockets that the successor does not use.
    pub unused: UnusedSockets,
}

/// A child process that is killed and reaped when dropped.
#[derive(Debug)]
struct Started(Option<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            // The process was killed, so this wait is short.
            let _ = child.wait();
        }
    }
}

/// Starts the new binary with `sockets`, `overrides` and the `discovered` servers, and waits for at
/// most `limit` until it is ready.
///
/// # Cancel safety
/// Dropping the future kills the new process.
pub async fn start(
    sockets: Vec<Passed>,
    overrides: OverrideHandover,
    discovered: &DiscoveryHandover,
    limit: Duration,
) -> Result<ReadySuccessor, UpgradeError> {
    let path = program::path().map_err(UpgradeError::Program)?;
    let mut command = same_command(&path);
    let too_large = pass_overrides(&mut command, &overrides);
    if discovered.is_empty() {
        command.env_remove(DISCOVERED);
    } else {
        command.env(DISCOVERED, discovered.to_json(MAX_VARIABLE));
    }
    let first = too_large.then(|| PredecessorMessage::Overrides(overrides.clone()));
    let (successor, has_sent) = begin(command, path, sockets, first, limit).await?;
    Ok(ReadySuccessor {
        overrides: match too_large && !has_sent {
            true => OverrideHandover::default(),
            false => overrides.without_history(),
        },
        ..successor
    })
}

/// Passes the overrides in the environment, unless they are too large. Returns whether they have to
/// be sent as the first message.
fn pass_overrides(command: &mut Command, overrides: &OverrideHandover) -> bool {
    let text = serde_json::to_string(overrides).unwrap_or_default();
    let too_large = text.len() >= MAX_VARIABLE;
    if too_large {
        command.env_remove(OVERRIDES).env(SENT_OVERRIDES, "1");
    } else {
        command.env(OVERRIDES, text).env_remove(SENT_OVERRIDES);
    }
    too_large
}

/// Runs `path` with the arguments of this process.
fn same_command(path: &Path) -> Command {
    let mut command = Command::new(path);
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        // Keep the name that `ps` shows.
        command.arg0(name);
    }
    command.args(arguments);
    command
}

/// Runs the command, sends it the `first` message, and waits until it is ready. The second value
/// tells whether that message was sent.
async fn begin(
    mut command: Command,
    path: PathBuf,
    mut sockets: Vec<Passed>,
    first: Option<PredecessorMessage>,
    limit: Duration,
) -> Result<(ReadySuccessor, bool), UpgradeError> {
    let (ours, theirs) = UnixStream::pair()?;
    sockets.push((OLD.to_owned(), theirs.into()));
    pass(&mut command, sockets);
    // Use a blocking thread: fork is slow in a large process, because it copies the page tables.
    let started = tokio::task::spawn_blocking(move || {
        // Dropping the command closes this process's copies of the passed descriptors, so
        // that the end of the channel is noticed when the child exits.
        let child = command.spawn();
        child.map(|child| Started(Some(child)))
    });
    let spawned = started.await.map_err(io::Error::other)?;
    let mut child = spawned.map_err(|source| UpgradeError::Spawn { path, source })?;
    let mut channel = Channel::new(ours)?;
    let mut has_sent = false;
    let answer = timeout(limit, async {
        if let Some(first) = &first {
            // If the process has exited, the socket may still contain its message.
            has_sent = channel.send(first).await.is_ok();
        }
        channel.next().await
    });
    match answer.await {
        Ok(Some(StartMessage::Ready(unused))) => {
            let successor = ReadySuccessor {
                child,
                channel,
                overrides: OverrideHandover::default(),
                unused,
            };
            Ok((successor, has_sent))
        }
        Ok(Some(StartMessage::Failed { reasons })) => Err(UpgradeError::Failed(reasons)),
        Ok(None) => match child.0.take() {
            Some(mut child) => {
                // `kill` has no effect if the process is already exiting.
                let _ = child.kill();
                Err(UpgradeError::Ended(child.wait()?))
            }
            None => Err(io::Error::other("no process").into()),
        },
        Err(_) => Err(UpgradeError::TimedOut(limit)),
    }
}

/// Passes descriptors to a command, with their names in the environment.
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
    if notify::watchdog_timeout().is_none() {
        command.env_remove(notify::WATCHDOG_USEC);
    }
    // The child's PID is not known yet.
    command.env_remove(notify::WATCHDOG_PID);
    // Fails only if two descriptors are mapped to the same number.
    if command.fd_mappings(mappings).is_err() {
        tracing::error!("cannot pass file descriptors to the new process");
    }
}

impl ReadySuccessor {
    pub fn pid(&self) -> u32 {
        self.child.0.as_ref().map_or(0, Child::id)
    }

    /// Tells the process that it now provides the service. The process is no longer killed on drop.
    pub async fn go(mut self, reload: bool, overrides: OverrideHandover) -> Successor {
        // Overrides may have changed while the successor started.
        let overrides = (overrides != self.overrides).then_some(overrides);
        let pid = self.pid();
        self.child.0 = None;
        let sent = self
            .channel
            .send(&PredecessorMessage::Go { reload, overrides })
            .await;
        // If sending fails, the successor treats the end of the channel as `go`.
        let channel = sent.map(|()| self.channel).inspect_err(
            |error| tracing::warn!(%error, pid, "cannot notify the new process that it has taken over"),
        );
        Successor {
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
pub struct Successor {
    pid: Option<Pid>,
    /// `None` once the process has exited.
    channel: Option<Channel>,
}

impl Successor {
    pub(crate) const fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Reports the number of open connections of this process to the newest process. Returns false
    /// if the report could not be sent.
    pub fn report(&self, connections: usize) -> bool {
        let status = PredecessorStatus::Serves {
            pid: std::process::id(),
            connections: u64::try_from(connections).unwrap_or(u64::MAX),
        };
        let channel = self.channel.as_ref();
        channel.is_some_and(|channel| channel.try_send(&status))
    }

    /// Forwards a signal to the process.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, %pid, "cannot forward a signal to the newest process");
        }
    }

    /// Receives the next message from the newest process.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> NewestMessage {
        if let Some(channel) = &mut self.channel {
            let message = channel.next().await;
            if let Some(NewestMessage::TookOver { pid }) = message
                && pid_of(pid) != self.pid
            {
                // A later process took over, so the exit of the direct successor is normal.
                self.pid = None;
            }
            if let Some(message) = message {
                return message;
            }
            self.channel = None;
        }
        std::future::pending().await
    }

    /// Whether the process exited with a failure. Does not reap it: after this process has
    /// ended, the service manager becomes its parent and needs the exit status.
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
