//! Properties of the machine, CPU pinning and priorities, and a single-threaded runtime.

use std::{
    fs, io,
    process::{Command, Stdio},
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit},
    thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity},
};
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

/// Properties of the machine, printed with every result.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the first CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cores: usize,
    pub kernel: String,
    /// TCP congestion control algorithm. It affects the results: bbr uses timers for pacing,
    /// and cubic does not.
    pub congestion_control: String,
}

impl Machine {
    pub fn detect() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu_model(&read("/proc/cpuinfo")),
            cores: cpus().len(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")
                .trim()
                .to_owned(),
        }
    }
}

fn cpu_model(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

/// The CPUs that this thread may use.
pub fn cpus() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .collect(),
        Err(_) => vec![0],
    }
}

/// Pins this thread, and the processes that it starts, to these CPUs.
///
/// # Errors
/// If a CPU does not exist.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::other(format!("CPU {cpu} does not exist")));
        }
        set.set(cpu);
    }
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// Moves this thread to the scheduling class `idle`. The thread then runs only when the CPU is
/// otherwise idle. Without `chrt` (part of util-linux), the thread gets the lowest priority,
/// which still leaves it a small share of the CPU.
///
/// # Errors
/// If setting the class and setting the priority both fail.
pub fn lower_priority() -> io::Result<()> {
    let thread = gettid();
    let class = Command::new("chrt")
        .args(["--idle", "--pid", "0"])
        .arg(thread.as_raw_nonzero().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if class.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    // On Linux, this call can set the priority of a single thread.
    setpriority_process(Some(thread), 19)?;
    Ok(())
}

/// Raises the soft limit on open files to the hard limit. Returns the limit that applies
/// afterwards.
pub fn raise_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    now.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Runs `future` on a current-thread runtime with a `LocalSet`.
///
/// # Errors
/// Returns errors of `future`, and errors from creating the runtime.
pub fn block_on<T, E: From<io::Error>>(future: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    let result = local.block_on(&runtime, future);
    // Do not wait for blocking threads, because a thread that reads standard input cannot be
    // woken.
    drop(local);
    runtime.shutdown_background();
    result
}

/// Waits for SIGINT or SIGTERM.
pub async fn shutdown_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_model_is_found() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu\n";
        assert_eq!(cpu_model(text), "AMD EPYC 9R14");
        assert_eq!(cpu_model(""), "unknown");
    }

    #[test]
    fn yielding_thread_has_lower_priority() {
        std::thread::spawn(|| {
            lower_priority().unwrap();
            let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
            let (_, rest) = stat.rsplit_once(')').unwrap();
            let fields: Vec<&str> = rest.split_whitespace().collect();
            // Fields 19 and 41 of proc_pid_stat(5) are the nice value and the scheduling
            // class. `fields` starts with field 3.
            let (nice, class) = (fields[19 - 3], fields[41 - 3]);
            assert!(nice == "19" || class == "5", "nice {nice}, class {class}");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn pinned_thread_stays_on_its_cpu() {
        let all = cpus();
        let last = *all.last().unwrap();
        std::thread::spawn(move || {
            pin(&[last]).unwrap();
            assert_eq!(cpus(), [last]);
        })
        .join()
        .unwrap();
        assert_eq!(cpus(), all);
    }
}
