//! PID 1 of a container after an upgrade.
//!
//! When PID 1 exits, the kernel kills all other processes of the container. So PID 1 keeps running
//! without sockets, forwards signals to the newest process, and reaps exited processes. It exits
//! when the newest process does, with the same exit code.

use std::{
    collections::VecDeque,
    io,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use leastconn::net;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, test_kill_process, waitpid,
};
use tokio::{
    signal::unix::{Signal as Signals, SignalKind, signal},
    time::timeout_at,
};

use super::{
    Successor,
    channel::{Channel, Pid1Message},
};

/// Number of recent exit codes that are kept, because a later message may announce one of these
/// processes as the newest.
const MAX_EXITS: usize = 64;

/// How long to wait for messages that a process may have sent before it exited.
const MESSAGE_GRACE: Duration = Duration::from_secs(1);

pub fn is_pid1() -> bool {
    std::process::id() == 1
}

/// State of PID 1 after an upgrade.
#[derive(Debug)]
pub struct Pid1 {
    newest: Pid,
    /// Exit code of the newest process, once it has exited.
    exit_code: Option<u8>,
    /// Set when the newest process has exited: the deadline for a message that names another
    /// process as the newest.
    deadline: Option<Instant>,
    /// The channel on which later processes announce themselves.
    announcements: Option<Channel>,
    sigchld: Signals,
    exits: VecDeque<(Pid, u8)>,
}

impl Pid1 {
    /// Call this after `successor` has taken over. Later processes write to the other end of
    /// `announcements`.
    pub fn new(successor: &Successor, announcements: UnixStream) -> io::Result<Self> {
        let newest = successor
            .pid()
            .ok_or_else(|| io::Error::other("the new process has no PID"))?;
        Ok(Self {
            newest,
            exit_code: None,
            deadline: None,
            announcements: Some(Channel::new(announcements)?),
            sigchld: signal(SignalKind::child())?,
            exits: VecDeque::new(),
        })
    }

    /// Forwards a signal to the newest process.
    pub fn forward(&self, signal: Signal) {
        if let Err(error) = kill_process(self.newest, signal) {
            tracing::warn!(
                %error,
                pid = %self.newest,
                "cannot forward a signal to the newest process"
            );
        }
    }

    /// Waits until the newest process exits, and returns its exit code.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn newest_exited(&mut self) -> u8 {
        loop {
            // Reap before waiting: signals that arrived before the first wait are not reported.
            self.reap();
            let Some(code) = self.exit_code else {
                tokio::select! {
                    message = next(&mut self.announcements) => self.handle(message),
                    _ = self.sigchld.recv() => {}
                }
                continue;
            };
            // The process may have announced its successor just before it exited.
            if self.announcements.is_none() {
                return code;
            }
            // Set the deadline once per exit, because this future may be dropped and created again.
            let deadline = *self
                .deadline
                .get_or_insert_with(|| net::now() + MESSAGE_GRACE);
            match timeout_at(deadline.into(), next(&mut self.announcements)).await {
                Ok(message) => self.handle(message),
                Err(_) => return code,
            }
        }
    }

    fn handle(&mut self, message: Option<Pid1Message>) {
        match message {
            Some(Pid1Message::Newest { pid }) => self.follow(pid),
            // No process is left that could announce another.
            None => self.announcements = None,
        }
    }

    /// Makes `pid` the newest process. The process may have exited already. Each process is
    /// announced twice, by itself and by its predecessor.
    fn follow(&mut self, pid: i32) {
        let Some(newest) = Pid::from_raw(pid).filter(|newest| *newest != self.newest) else {
            return;
        };
        self.newest = newest;
        self.deadline = None;
        tracing::info!(pid, "forwarding signals to a new process");
        let known = self.exits.iter().find(|(pid, _)| *pid == newest);
        let gone = || test_kill_process(newest).is_err().then_some(1);
        self.exit_code = known.map(|(_, code)| *code).or_else(gone);
    }

    /// Reaps exited processes.
    fn reap(&mut self) {
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let code = code(status);
                    if pid == self.newest {
                        self.exit_code = Some(code);
                    }
                    self.exits.truncate(MAX_EXITS - 1);
                    self.exits.push_front((pid, code));
                }
                Ok(None) => return,
                // No child is left. All processes of the container are children of PID 1.
                Err(_) => {
                    self.exit_code.get_or_insert(1);
                    return;
                }
            }
        }
    }
}

async fn next(from: &mut Option<Channel>) -> Option<Pid1Message> {
    match from {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}

/// Exit code as in a shell: 128 + signal for a killed process.
fn code(status: WaitStatus) -> u8 {
    let ended = status.exit_status();
    let killed = || status.terminating_signal().map(|signal| 128 + signal);
    ended
        .or_else(killed)
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use leastconn_testkit::{DEADLINE, within};
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use tokio::time::timeout;

    use super::{super::channel, *};

    fn sleeping() -> (Child, Pid) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        (child, pid)
    }

    fn ended(mut child: Child) {
        child.kill().unwrap();
        // Wait for the exit without reaping the process.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&child)), options).unwrap();
    }

    #[tokio::test]
    async fn exit_of_a_replaced_process_is_ignored() {
        if std::env::var_os("NEXTEST").is_none() {
            eprintln!("SKIPPED: this test would reap child processes of concurrent tests");
            return;
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ((old, old_pid), (new, new_pid)) = (sleeping(), sleeping());
        let successor = Successor {
            pid: Some(old_pid),
            channel: None,
        };
        let mut first = Pid1::new(&successor, ours).unwrap();
        let pid = new_pid.as_raw_nonzero().get();
        // The old process and the new process each announce the new process.
        channel::send(&theirs, &Pid1Message::Newest { pid }).unwrap();
        ended(old);
        channel::send(&theirs, &Pid1Message::Newest { pid }).unwrap();
        let end = timeout(MESSAGE_GRACE * 2, first.newest_exited()).await;
        assert!(end.is_err(), "treated as the newest: {end:?}");
        ended(new);
        // The waiting future may be dropped and recreated.
        let in_pieces = async {
            loop {
                if let Ok(code) = timeout(MESSAGE_GRACE / 4, first.newest_exited()).await {
                    return code;
                }
            }
        };
        assert_eq!(within(DEADLINE, "its end", in_pieces).await, 128 + 9);
        drop(theirs);
    }
}
