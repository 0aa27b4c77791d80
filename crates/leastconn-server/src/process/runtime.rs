//! The Tokio runtime that serves connections.
//!
//! # Fairness between connections
//!
//! The run queue of a worker has room for 256 tasks. If more tasks become runnable, Tokio moves
//! half of them to a queue that all workers share. A worker takes a task from the shared queue only
//! once per *interval*, or when its own queue is empty. By default, Tokio derives the interval from
//! the time per task, so that a worker with more than 256 busy connections lets the tasks in the
//! shared queue wait while others run many times. A constant, short interval makes all of them
//! progress at the same rate.
//!
//! Tokio does not document the size of the queue; the test below fails if the order becomes unfair.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// A worker takes every third task from the shared queue. In the test below, with 600 tasks that
/// are always runnable, the slowest has been polled 76 times when the first has been polled 100
/// times. With an interval of 1 it has been polled once, with 2, 4 and 16 it has been polled 32, 26
/// and 3 times, and with Tokio's default never.
const SHARED_QUEUE_INTERVAL: u32 = 3;

/// Starts a runtime with this number of worker threads.
///
/// # Errors
/// If the operating system refuses a thread or a descriptor.
pub fn start(workers: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("worker")
        .global_queue_interval(SHARED_QUEUE_INTERVAL)
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Poll,
    };

    use tokio::task::JoinSet;

    use super::*;

    /// More tasks than fit into the run queue of a worker.
    const TASKS: usize = 600;
    const POLLS: u32 = 100;

    /// Runs tasks that are always runnable. Returns how often the task that is furthest behind has
    /// been polled when the first one is done.
    fn polls_of_slowest_task(runtime: &Runtime) -> u32 {
        let polls: Arc<[AtomicU32]> = (0..TASKS).map(|_| AtomicU32::new(0)).collect();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for task in 0..TASKS {
                let polls = Arc::clone(&polls);
                tasks.spawn(poll_fn(move |cx| {
                    if polls[task].fetch_add(1, Ordering::Relaxed) + 1 < POLLS {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    let all = polls.iter().map(|polls| polls.load(Ordering::Relaxed));
                    Poll::Ready(all.min())
                }));
            }
            let first = tasks.join_next().await;
            first.unwrap().unwrap().unwrap()
        })
    }

    #[test]
    fn busy_tasks_progress_at_the_same_rate() {
        let runtime = start(1).unwrap();
        let slowest = polls_of_slowest_task(&runtime);
        assert!(slowest > POLLS / 2, "{slowest} polls");
    }
}
