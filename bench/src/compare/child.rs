//! Programs that are started here end here, one by one, by their process IDs:
//! whether the run ends well, fails or is interrupted.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child as Process, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::time::{Instant, sleep};

use crate::{machine, usage};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// A program that runs, and all that it has started itself.
#[derive(Debug)]
pub struct Child {
    process: Process,
    log: PathBuf,
}

impl Child {
    /// Starts it on these CPUs; afterwards this thread is on `back_on` again. What
    /// it writes goes to `log`.
    ///
    /// # Errors
    /// If there is no such program or no such CPU.
    pub fn spawn(
        command: &mut Command,
        cpus: &[usize],
        back_on: &[usize],
        log: &Path,
    ) -> io::Result<Self> {
        let output = File::create(log)?;
        command
            // Its standard input ends with us, which some can be told to watch.
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C is for us alone: we end the others, in order.
            .process_group(0);
        // A new process is where the thread is that starts it.
        machine::pin(cpus)?;
        let process = command.spawn();
        machine::pin(back_on)?;
        Ok(Self {
            process: process?,
            log: log.to_owned(),
        })
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended, and how.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it does not, within `limit`.
    pub async fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it has written.
    pub fn output(&self) -> String {
        fs::read(&self.log).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The last lines of that, for an error message.
    pub fn log_tail(&self) -> String {
        let text = self.output();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    fn end(&mut self) {
        let ids = [self.id()].into_iter().chain(usage::descendants(self.id()));
        // Descriptors, not numbers: a number may be another's by the time.
        let family: Vec<_> = ids
            .filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .collect();
        drop(self.process.stdin.take());
        if let Some(first) = family.first() {
            let _ = pidfd_send_signal(first, Signal::TERM);
        }
        let end = Instant::now() + GRACE;
        for process in &family {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            // Readable once the process has ended.
            let ends_within = |limit: Timespec| {
                let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit));
                matches!(ended, Ok(1..))
            };
            if !ends_within(left) {
                let _ = pidfd_send_signal(process, Signal::KILL);
                // Ends for certain, but not at once.
                ends_within(Timespec::try_from(GRACE).unwrap_or_default());
            }
        }
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_kills_the_process_group() {
        let directory = tempfile::tempdir().unwrap();
        let all = machine::cpus();
        let log = directory.path().join("log");
        // The shell is told to ignore SIGTERM, and waits for a child of its own.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; sleep 1000 & echo started; wait"]);
        let child = Child::spawn(&mut command, &all, &all, &log).unwrap();
        let started = || child.output().contains("started");
        while !started() || usage::descendants(child.id()).is_empty() {
            std::thread::yield_now();
        }
        let ids = [vec![child.id()], usage::descendants(child.id())].concat();
        assert!(ids.iter().all(|id| usage::start_time(*id).is_some()));
        drop(child);
        assert!(ids.iter().all(|id| usage::start_time(*id).is_none()));
    }
}
