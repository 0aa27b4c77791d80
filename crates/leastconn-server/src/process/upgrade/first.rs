//! The first process of a container (its process 1), once another serves in its place.
//!
//! Its end would be the end of the container, so it stays: without sockets, passing
//! signals on to whichever process is the newest, and collecting those that have
//! ended. It ends with the newest one, and with its exit code.

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
    Heir,
    channel::{Channel, ToFirst},
};

/// Ends of processes that may turn out to have been the newest.
const REMEMBERED: usize = 64;

/// How long what a process has said before it ended may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Whether the end of this process is that of all others.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// What is left of the first process.
#[derive(Debug)]
pub struct First {
    newest: Pid,
    /// Its exit code, once it has ended.
    ended_with: Option<u8>,
    /// Until then, word of another one is waited for.
    until: Option<Instant>,
    /// Where those who come later say who they are.
    later: Option<Channel>,
    ended: Signals,
    earlier: VecDeque<(Pid, u8)>,
}

impl First {
    /// After `heir` took over; those who come after it write to the other end of
    /// `later`.
    pub fn new(heir: &Heir, later: UnixStream) -> io::Result<Self> {
        let newest = heir
            .pid()
            .ok_or_else(|| io::Error::other("the new process has no ID"))?;
        Ok(Self {
            newest,
            ended_with: None,
            until: None,
            later: Some(Channel::new(later)?),
            ended: signal(SignalKind::child())?,
            earlier: VecDeque::new(),
        })
    }

    /// Passes a signal on.
    pub fn pass_on(&self, signal: Signal) {
        if let Err(error) = kill_process(self.newest, signal) {
            tracing::warn!(%error, pid = %self.newest, "a signal was not passed on");
        }
    }

    /// Waits until the newest process has ended, and returns its exit code.
    ///
    /// # Cancel safety
    /// It may be dropped, and called again.
    pub async fn newest_ended(&mut self) -> u8 {
        loop {
            // Before waiting: signals that came before they were waited for are not told.
            self.collect();
            let Some(code) = self.ended_with else {
                tokio::select! {
                    told = next(&mut self.later) => self.hear(told),
                    _ = self.ended.recv() => {}
                }
                continue;
            };
            // It may have said just before who takes its place.
            if self.later.is_none() {
                return code;
            }
            // Once for each: whoever waits for this may do so in pieces.
            let until = *self.until.get_or_insert_with(|| net::now() + ON_ITS_WAY);
            match timeout_at(until.into(), next(&mut self.later)).await {
                Ok(told) => self.hear(told),
                Err(_) => return code,
            }
        }
    }

    fn hear(&mut self, told: Option<ToFirst>) {
        match told {
            Some(ToFirst::Newest { pid }) => self.follow(pid),
            // Nobody is left who could say more.
            None => self.later = None,
        }
    }

    /// Another one is the newest, and may have ended meanwhile. Both it and the one
    /// before say so.
    fn follow(&mut self, pid: i32) {
        let Some(newest) = Pid::from_raw(pid).filter(|newest| *newest != self.newest) else {
            return;
        };
        self.newest = newest;
        self.until = None;
        tracing::info!(pid, "signals are for this process from here on");
        let known = self.earlier.iter().find(|(pid, _)| *pid == newest);
        let gone = || test_kill_process(newest).is_err().then_some(1);
        self.ended_with = known.map(|(_, code)| *code).or_else(gone);
    }

    /// Collects those that have ended.
    fn collect(&mut self) {
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let code = code(status);
                    if pid == self.newest {
                        self.ended_with = Some(code);
                    }
                    self.earlier.truncate(REMEMBERED - 1);
                    self.earlier.push_front((pid, code));
                }
                Ok(None) => return,
                // No child is left, and every process here is one.
                Err(_) => {
                    self.ended_with.get_or_insert(1);
                    return;
                }
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
        // Without collecting it.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&child)), options).unwrap();
    }

    #[tokio::test]
    async fn whose_place_was_taken_is_not_the_newest_however_soon_it_ends() {
        if std::env::var_os("NEXTEST").is_none() {
            eprintln!("SKIPPED: it would collect the processes of tests beside it");
            return;
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ((old, old_pid), (new, new_pid)) = (sleeping(), sleeping());
        let heir = Heir {
            pid: Some(old_pid),
            channel: None,
        };
        let mut first = First::new(&heir, ours).unwrap();
        let pid = new_pid.as_raw_nonzero().get();
        // By the old one, and then by the new one itself.
        channel::send(&theirs, &ToFirst::Newest { pid }).unwrap();
        ended(old);
        channel::send(&theirs, &ToFirst::Newest { pid }).unwrap();
        let end = timeout(ON_ITS_WAY * 2, first.newest_ended()).await;
        assert!(end.is_err(), "taken for the newest: {end:?}");
        ended(new);
        // Whoever waits may have other things to do now and then.
        let in_pieces = async {
            loop {
                if let Ok(code) = timeout(ON_ITS_WAY / 4, first.newest_ended()).await {
                    return code;
                }
            }
        };
        assert_eq!(within(DEADLINE, "its end", in_pieces).await, 128 + 9);
        drop(theirs);
    }
}
