//! Telling the service manager again and again that all workers work.
//!
//! A task that runs proves that one worker does. Another may hang meanwhile: it has begun
//! to poll a task and never comes back from it, and keeps the connections that it has
//! taken to itself. What a worker has done is counted by the runtime: a worker that waits
//! for work says so, and one that works says how long it has, at least after every 61
//! tasks. One that does neither for half the time that the manager waits hangs.

use std::time::Duration;

use tokio::{
    runtime::{Handle, RuntimeMetrics},
    time::sleep,
};

use leastconn::ShortDuration;
use leastconn_server::process::notify;

/// Tells the manager that this runtime works, twice as often as it wants to be told;
/// completes at once where it does not. While a worker hangs, it is not told.
pub(crate) async fn watchdog() {
    let Some(patience) = notify::patience() else {
        return;
    };
    let mut workers = Workers::of(Handle::current().metrics());
    loop {
        notify::alive();
        sleep(patience / 2).await;
        wait_for_all(&workers, patience).await;
        workers.look();
    }
}

/// Returns once none hangs. A machine that stood still looks as if one did, so this
/// looks again before the manager loses its patience.
async fn wait_for_all(workers: &Workers, patience: Duration) {
    let mut looks = 0;
    while let Some(worker) = workers.hangs() {
        looks += 1;
        // Whoever was only held up has come on by the second look.
        if looks == 2 {
            tracing::error!(
                worker,
                since = %ShortDuration(patience / 2),
                "a worker hangs, with the connections that it serves: the service manager is not told that this process is alive, so that it restarts it"
            );
        }
        sleep(patience / 20).await;
    }
    if looks >= 2 {
        tracing::warn!("no worker hangs any more");
    }
}

/// How far the workers were when they were last looked at.
struct Workers {
    metrics: RuntimeMetrics,
    seen: Vec<Progress>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// One more each time that it begins or ends to wait for work.
    waits: u64,
    /// How long it has worked so far, as far as it has counted.
    busy: Duration,
}

impl Workers {
    fn of(metrics: RuntimeMetrics) -> Self {
        let mut this = Self {
            metrics,
            seen: Vec::new(),
        };
        this.look();
        this
    }

    fn look(&mut self) {
        let all = 0..self.metrics.num_workers();
        self.seen = all.map(|worker| self.progress(worker)).collect();
    }

    fn progress(&self, worker: usize) -> Progress {
        Progress {
            waits: self.metrics.worker_park_unpark_count(worker),
            busy: self.metrics.worker_total_busy_duration(worker),
        }
    }

    /// The first worker that has been at one and the same task since it was looked at.
    fn hangs(&self) -> Option<usize> {
        let hangs = |worker: usize, seen: &Progress| {
            let is_waiting = seen.waits % 2 == 1;
            !is_waiting && self.progress(worker) == *seen
        };
        let mut all = self.seen.iter().enumerate();
        all.find_map(|(worker, seen)| hangs(worker, seen).then_some(worker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use leastconn_testkit::{DEADLINE, eventually};

    use super::*;

    /// Long enough for any worker to come back.
    const A_WHILE: Duration = Duration::from_millis(300);

    #[test]
    fn one_worker_that_hangs_is_noticed_among_others_that_work() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .enable_all()
            .build()
            .unwrap();
        let workers = |metrics| async move {
            let workers = Workers::of(metrics);
            sleep(A_WHILE).await;
            workers.hangs()
        };
        let metrics = || runtime.metrics();
        // One works all the time, and never waits; another one has nothing to do.
        let busy = runtime.spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        // The machine may pause, all workers of it.
        let nobody_hangs = || async {
            let looks = eventually(DEADLINE, || async {
                let hanging = workers(metrics()).await;
                hanging.map_or(Ok(()), |which| {
                    Err(format!("worker {which} is said to hang"))
                })
            });
            looks.await.unwrap();
        };
        runtime.block_on(async {
            for _ in 0..3 {
                nobody_hangs().await;
            }
            let (go_on, hang) = mpsc::sync_channel::<()>(1);
            let hanging = tokio::spawn(async move { hang.recv() });
            let found = eventually(DEADLINE, || async {
                workers(metrics())
                    .await
                    .ok_or_else(|| "none is said to hang".to_owned())
            });
            let found = found.await.unwrap();
            assert_eq!(workers(metrics()).await, Some(found));
            go_on.send(()).unwrap();
            hanging.await.unwrap().unwrap();
            nobody_hangs().await;
        });
        busy.abort();
        runtime.shutdown_background();
    }
}
