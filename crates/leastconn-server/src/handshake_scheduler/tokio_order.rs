//! The behaviour of Tokio's scheduler that the handshake scheduler relies on.
//!
//! Tokio does not document the following two rules, and another version may change them:
//!
//! 1. A task that calls [`yield_now`](tokio::task::yield_now) is woken only after its
//!    worker has run all other runnable tasks and has polled the I/O driver. So pending I/O
//!    events are delivered first.
//! 2. A task that wakes itself and returns `Pending` goes to the end of its worker's run
//!    queue, behind the tasks that those events have woken.
//!
//! The tests below fail if Tokio breaks one of these rules. Handshakes then still complete, but
//! established connections no longer have priority.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// Lets all runnable tasks run, including tasks that pending I/O events make runnable.
pub(super) async fn run_after_others() {
    tokio::task::yield_now().await;
    requeue().await;
}

/// Moves the task to the end of its worker's run queue.
pub(super) fn requeue() -> Requeue {
    Requeue { is_requeued: false }
}

/// The future of [`requeue`].
pub(super) struct Requeue {
    is_requeued: bool,
}

impl Future for Requeue {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.is_requeued, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::{io::AsyncReadExt, net::UnixStream, task::JoinSet};

    use super::*;

    type Order = Arc<Mutex<Vec<&'static str>>>;

    /// The order in which the tasks of one worker run: a task that calls [`run_after_others`], some
    /// runnable tasks, and a task whose socket is readable.
    async fn order() -> Vec<&'static str> {
        let order = Order::default();
        let push = |name: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().push(name)
        };
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let mut tasks = JoinSet::new();
        let (io, after) = (push("io"), push("after"));
        tasks.spawn(async move {
            let _ = reader.read(&mut [0; 1]).await;
            io();
        });
        // The reader must wait for its socket before the socket becomes readable.
        tokio::task::yield_now().await;
        writer.writable().await.unwrap();
        writer.try_write(b"x").unwrap();
        tasks.spawn(async move {
            run_after_others().await;
            after();
        });
        for _ in 0..3 {
            let runnable = push("runnable");
            tasks.spawn(async move { runnable() });
        }
        tasks.join_all().await;
        let order = order.lock();
        order.clone()
    }

    async fn assert_last() {
        for round in 0..100 {
            let order = tokio::spawn(order()).await.unwrap();
            assert_eq!(order.last(), Some(&"after"), "round {round}: {order:?}");
        }
    }

    #[test]
    fn worker_runs_ready_tasks_and_io_first() {
        let runtime = crate::process::runtime::start(1).unwrap();
        runtime.block_on(assert_last());
    }

    #[tokio::test]
    async fn current_thread_runs_ready_tasks_and_io_first() {
        assert_last().await;
    }
}
