//! systemd watchdog: sends keep-alives as long as no worker thread hangs.
//!
//! A running task only proves that the worker that polls it makes progress. Another worker
//! may hang in the poll of a task, with all of its connections. Tokio's metrics show this:
//! a worker that waits increments its count of parks, and a busy worker updates its busy
//! time at least every 61 tasks. A worker hangs if neither changes during half the watchdog
//! timeout.

use std::time::Duration;

use tokio::{
    runtime::{Handle, RuntimeMetrics},
    time::sleep,
};

use leastconn::ShortDuration;
use leastconn_server::process::notify;

/// Sends keep-alives, twice per watchdog timeout, while no worker hangs. Returns immediately if
/// there is no watchdog.
pub(crate) async fn watchdog() {
    let Some(watchdog_timeout) = notify::watchdog_timeout() else {
        return;
    };
    let mut workers = Workers::of(Handle::current().metrics());
    loop {
        notify::alive();
        sleep(watchdog_timeout / 2).await;
        wait_for_all(&workers, watchdog_timeout).await;
        workers.record();
    }
}

/// Returns once all workers make progress. After a pause of the whole machine, a worker may
/// seem to hang, so this function checks several times before the watchdog timeout.
async fn wait_for_all(workers: &Workers, watchdog_timeout: Duration) {
    let mut checks = 0;
    while let Some(worker) = workers.hangs() {
        checks += 1;
        // A worker that was only delayed makes progress before the second check.
        if checks == 2 {
            tracing::error!(
                worker,
                since = %ShortDuration(watchdog_timeout / 2),
                "worker thread hangs: watchdog keep-alives stop, so that the service manager restarts the service"
            );
        }
        sleep(watchdog_timeout / 20).await;
    }
    if checks >= 2 {
        tracing::warn!("all worker threads make progress again");
    }
}

/// Progress of the workers at the last check.
struct Workers {
    metrics: RuntimeMetrics,
    last: Vec<Progress>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// Incremented when the worker parks and when it unparks, so the count is odd while the
    /// worker waits.
    waits: u64,
    /// Total busy time that Tokio has recorded.
    busy: Duration,
}

impl Workers {
    fn of(metrics: RuntimeMetrics) -> Self {
        let mut this = Self {
            metrics,
            last: Vec::new(),
        };
        this.record();
        this
    }

    fn record(&mut self) {
        let all = 0..self.metrics.num_workers();
        self.last = all.map(|worker| self.progress(worker)).collect();
    }

    fn progress(&self, worker: usize) -> Progress {
        Progress {
            waits: self.metrics.worker_park_unpark_count(worker),
            busy: self.metrics.worker_total_busy_duration(worker),
        }
    }

    /// Returns the first worker without progress since the last check.
    fn hangs(&self) -> Option<usize> {
        let hangs = |worker: usize, last: &Progress| {
            let is_waiting = last.waits % 2 == 1;
            !is_waiting && self.progress(worker) == *last
        };
        let mut all = self.last.iter().enumerate();
        all.find_map(|(worker, last)| hangs(worker, last).then_some(worker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use leastconn_testkit::{DEADLINE, eventually};

    use super::*;

    /// Maximum time until a worker that is not blocked makes progress.
    const PROGRESS: Duration = Duration::from_millis(300);

    #[test]
    fn hanging_worker_is_noticed_among_busy_ones() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .enable_all()
            .build()
            .unwrap();
        let workers = |metrics| async move {
            let workers = Workers::of(metrics);
            sleep(PROGRESS).await;
            workers.hangs()
        };
        let metrics = || runtime.metrics();
        // One worker is always busy, another one always idle.
        let busy = runtime.spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        // Retry, because the machine may pause.
        let assert_none_hangs = || async {
            let none = eventually(DEADLINE, || async {
                let hanging = workers(metrics()).await;
                hanging.map_or(Ok(()), |worker| {
                    Err(format!("worker {worker} seems to hang"))
                })
            });
            none.await.unwrap();
        };
        runtime.block_on(async {
            for _ in 0..3 {
                assert_none_hangs().await;
            }
            let (release, released) = mpsc::sync_channel::<()>(1);
            let hanging = tokio::spawn(async move { released.recv() });
            let found = eventually(DEADLINE, || async {
                workers(metrics())
                    .await
                    .ok_or_else(|| "no worker seems to hang".to_owned())
            });
            let found = found.await.unwrap();
            assert_eq!(workers(metrics()).await, Some(found));
            release.send(()).unwrap();
            hanging.await.unwrap().unwrap();
            assert_none_hangs().await;
        });
        busy.abort();
        runtime.shutdown_background();
    }
}
