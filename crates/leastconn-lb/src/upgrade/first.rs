//! The first process of a container (its process 1), once another serves in its place.
//!
//! Its end would be the end of the container, so it stays: without sockets, passing
//! signals on to whichever process is the newest, and collecting those that have
//! ended. It ends with the newest one, and with its exit code.

use std::{collections::VecDeque, io, os::unix::net::UnixStream};

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, test_kill_process, waitpid,
};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use super::{
    Heir,
    channel::{Channel, ToFirst},
};

/// Ends of processes that may turn out to have been the newest.
const REMEMBERED: usize = 64;

/// Whether the end of this process is that of all others.
pub(crate) fn is_first() -> bool {
    std::process::id() == 1
}

/// What is left of the first process.
#[derive(Debug)]
pub(crate) struct First {
    newest: Pid,
    /// Where those who come later say who they are.
    later: Option<Channel>,
    ended: Signals,
    earlier: VecDeque<(Pid, u8)>,
}

impl First {
    /// After `heir` took over; those who come after it write to the other end of
    /// `later`.
    pub(crate) fn new(heir: &Heir, later: UnixStream) -> io::Result<Self> {
        let newest = heir
            .pid()
            .ok_or_else(|| io::Error::other("the new process has no ID"))?;
        Ok(Self {
            newest,
            later: Some(Channel::new(later)?),
            ended: signal(SignalKind::child())?,
            earlier: VecDeque::new(),
        })
    }

    /// Passes a signal on.
    pub(crate) fn pass_on(&self, signal: Signal) {
        if let Err(error) = kill_process(self.newest, signal) {
            tracing::warn!(%error, pid = %self.newest, "a signal was not passed on");
        }
    }

    /// Waits until the newest process has ended, and returns its exit code.
    ///
    /// # Cancel safety
    /// It may be dropped, and called again.
    pub(crate) async fn newest_ended(&mut self) -> u8 {
        loop {
            // Before waiting: signals that came before they were waited for are not told.
            if let Some(code) = self.collect() {
                return code;
            }
            tokio::select! {
                told = next(&mut self.later) => match told {
                    Some(ToFirst::Newest { pid }) => {
                        if let Some(code) = self.follow(pid) {
                            return code;
                        }
                    }
                    // Nobody is left who could say more.
                    None => self.later = None,
                },
                _ = self.ended.recv() => {}
            }
        }
    }

    /// Another one is the newest. Returns its exit code if it has ended meanwhile.
    fn follow(&mut self, pid: i32) -> Option<u8> {
        let newest = Pid::from_raw(pid)?;
        self.newest = newest;
        tracing::info!(pid, "signals are for this process from here on");
        let known = self.earlier.iter().find(|(pid, _)| *pid == newest);
        let gone = || test_kill_process(newest).is_err().then_some(1);
        known.map(|(_, code)| *code).or_else(gone)
    }

    /// Collects those that have ended.
    fn collect(&mut self) -> Option<u8> {
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let code = code(status);
                    if pid == self.newest {
                        return Some(code);
                    }
                    self.earlier.truncate(REMEMBERED - 1);
                    self.earlier.push_front((pid, code));
                }
                Ok(None) => return None,
                // No child is left, and every process here is one.
                Err(_) => return Some(1),
            }
        }
    }
}

async fn next(from: &mut Option<Channel>) -> Option<ToFirst> {
    match from {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}

/// As a shell has it.
fn code(status: WaitStatus) -> u8 {
    let ended = status.exit_status();
    let killed = || status.terminating_signal().map(|signal| 128 + signal);
    ended
        .or_else(killed)
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1)
}
