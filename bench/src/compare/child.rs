//! Child processes. Each is stopped together with all its descendants, even if the run ends
//! early.

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

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// A running program. On drop, the program and its descendants are stopped.
#[derive(Debug)]
pub struct Child {
    process: Process,
    log: PathBuf,
}

impl Child {
    /// Starts a program on `cpus` and writes its output to `log`. A child inherits the CPU
    /// affinity of the thread that starts it. Therefore the calling thread is pinned to `cpus`
    /// during the start, and to `back_on` afterwards.
    ///
    /// # Errors
    /// If the program or a CPU does not exist.
    pub fn spawn(
        command: &mut Command,
        cpus: &[usize],
        back_on: &[usize],
        log: &Path,
    ) -> io::Result<Self> {
        let output = File::create(log)?;
        command
            // When this process ends, the kernel closes the pipe, and `servers --with-stdin`
            // exits.
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Use a separate process group, so that Ctrl-C reaches only this process, which
            // then stops the children.
            .process_group(0);
        machine::pin(cpus)?;
        let process = command.spawn();
        machine::pin(back_on)?;
        Ok(Self {
            process: process?,
            log: log.to_owned(),
        })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The exit status; `None` while the program is running.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Waits until the program exits.
    ///
    /// # Errors
    /// `TimedOut` after `limit`.
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

    pub fn output(&self) -> String {
        fs::read(&self.log).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Returns the last lines of the output, for error messages.
    pub fn log_tail(&self) -> String {
        let text = self.output();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    fn stop(&mut self) {
        let ids = [self.id()].into_iter().chain(usage::descendants(self.id()));
        // Use PID file descriptors, because process IDs may be reused.
        let processes: Vec<_> = ids
            .filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .collect();
        drop(self.process.stdin.take());
        if let Some(first) = processes.first() {
            let _ = pidfd_send_signal(first, Signal::TERM);
        }
        let end = Instant::now() + GRACE;
        for process in &processes {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            // A PID file descriptor is readable once the process has ended.
            let ends_within = |limit: Timespec| {
                let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit));
                matches!(ended, Ok(1..))
            };
            if !ends_within(left) {
                let _ = pidfd_send_signal(process, Signal::KILL);
                ends_within(Timespec::try_from(GRACE).unwrap_or_default());
            }
        }
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            self.stop();
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
        // Start a shell that ignores SIGTERM and has a child.
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
