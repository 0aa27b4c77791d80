//! Determines how many bytes a connection may move in one poll, and how it yields to other
//! connections.
//!
//! Large budgets reduce the CPU cost of bulk transfers, but increase the latency of other
//! connections. Budgets are large while all connections of a worker are bulk transfers, and small
//! while some of them exchange short messages. While budgets are small, the unsent bytes of a bulk
//! transfer in the kernel are limited as well. Otherwise the kernel would send them in bursts that
//! occupy the processor for milliseconds. The limit increases the CPU cost of a bulk transfer by up
//! to 50 %, so it is not always set.
//!
//! # Dependency on Tokio's scheduler
//!
//! A connection that has used up its budget calls [`yield_to_others`]. Tokio wakes a yielding task
//! only after the worker has polled the I/O driver, so connections whose sockets have become ready
//! run first. In contrast, a task that wakes itself directly enters the run queue, and the worker
//! polls the I/O driver only after every 61 tasks. Tokio does not guarantee this order; the test
//! `yielding_lets_ready_sockets_run_first` fails if it changes.

use std::{
    cell::Cell,
    pin::pin,
    task::{Context, Poll},
};

use tokio::task::yield_now;

use super::SCRATCH;

/// The small budget in bytes.
const SHORT: usize = SCRATCH / 4;

/// A connection that moves more bytes than this in one poll is a bulk transfer (a "stream").
const EXCHANGE: u64 = 16 * 1024;

/// Number of polls for which an observed exchange or bulk transfer stays in effect.
const MEMORY: u32 = 64;

thread_local! {
    /// Number of short exchanges so far on all connections of this worker.
    static EXCHANGES: Cell<u32> = const { Cell::new(0) };
}

/// Makes the runtime poll the current task again, but only after polling the I/O driver; see the
/// module documentation.
pub(super) fn yield_to_others(cx: &mut Context<'_>) {
    // Polling the future once registers the wake-up.
    let _: Poll<()> = pin!(yield_now()).poll(cx);
}

/// The budget of one connection.
#[derive(Default)]
pub(super) struct PollBudget {
    /// The value of `EXCHANGES` at the last poll.
    seen: u32,
    /// Number of polls for which the budget remains small.
    short: u32,
    /// Number of polls for which the connection remains classified as a stream.
    stream: u32,
    last: Moved,
}

/// Direction of the last small transfer. In an exchange, the direction alternates. If all small
/// transfers go in the same direction, the connection is a slow stream: no peer is waiting for a
/// response.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Moved {
    #[default]
    ToClient,
    ToServer,
    Both,
}

impl PollBudget {
    /// Returns the number of bytes that the next poll may move.
    pub(super) fn next(&mut self) -> usize {
        let exchanges = EXCHANGES.get();
        if exchanges != self.seen {
            self.seen = exchanges;
            self.short = MEMORY;
        }
        match self.short.checked_sub(1) {
            Some(left) => {
                self.short = left;
                SHORT
            }
            None => SCRATCH,
        }
    }

    /// Records how many bytes a poll has moved to the server and to the client.
    pub(super) fn moved(&mut self, [to_server, to_client]: [u64; 2]) {
        if to_server.max(to_client) > EXCHANGE {
            self.stream = MEMORY;
            return;
        }
        let moved = match (to_server, to_client) {
            (0, 0) => return,
            (_, 0) => Moved::ToServer,
            (0, _) => Moved::ToClient,
            _ => Moved::Both,
        };
        let is_answer = moved == Moved::Both || moved != self.last;
        self.last = moved;
        // If a stream moves only a few bytes in one poll, this is not an exchange.
        match self.stream.checked_sub(1) {
            Some(left) => self.stream = left,
            None if is_answer => {
                self.seen = EXCHANGES.get().wrapping_add(1);
                EXCHANGES.set(self.seen);
            }
            None => {}
        }
    }

    /// Whether `budget` is a small budget.
    pub(super) const fn is_short(budget: usize) -> bool {
        budget < SCRATCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_alone_have_large_budgets() {
        let (mut a, mut b) = (PollBudget::default(), PollBudget::default());
        for round in 0..1000 {
            for stream in [&mut a, &mut b] {
                assert_eq!(stream.next(), SCRATCH);
                // In some polls of a bulk transfer, only a few bytes are available.
                stream.moved([0, if round % 10 == 3 { 100 } else { 128 * 1024 }]);
            }
        }
    }

    #[test]
    fn exchanges_shorten_the_budget_of_streams() {
        let (mut stream, mut exchange) = (PollBudget::default(), PollBudget::default());
        stream.moved([0, 128 * 1024]);
        exchange.next();
        exchange.moved([64, 0]);
        exchange.moved([0, 64]);
        for _ in 0..MEMORY {
            assert_eq!(stream.next(), SHORT);
            stream.moved([0, 32 * 1024]);
        }
        assert_eq!(stream.next(), SCRATCH);
        exchange.next();
        exchange.moved([64, 0]);
        exchange.moved([0, 64]);
        assert_eq!(stream.next(), SHORT);
    }

    #[test]
    fn exchange_does_not_shorten_its_own_budget() {
        let mut exchange = PollBudget::default();
        for _ in 0..10 {
            assert_eq!(exchange.next(), SCRATCH);
            exchange.moved([64, 0]);
            exchange.moved([0, 64]);
        }
    }

    #[test]
    fn one_way_trickle_is_no_exchange() {
        let (mut stream, mut trickle) = (PollBudget::default(), PollBudget::default());
        for _ in 0..1000 {
            trickle.next();
            trickle.moved([0, 1000]);
            assert_eq!(stream.next(), SCRATCH);
            stream.moved([0, 128 * 1024]);
        }
    }

    #[test]
    fn idle_polls_change_nothing() {
        let (mut stream, mut idle) = (PollBudget::default(), PollBudget::default());
        idle.next();
        idle.moved([0, 0]);
        assert_eq!(stream.next(), SCRATCH);
    }

    #[tokio::test]
    async fn yielding_lets_ready_sockets_run_first() {
        use std::{
            future::poll_fn,
            sync::{
                Arc,
                atomic::{AtomicBool, Ordering},
            },
        };

        use tokio::{
            io::{AsyncReadExt, AsyncWriteExt},
            net::UnixStream,
        };

        let (mut near, mut far) = UnixStream::pair().unwrap();
        let received = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&received);
        let reader = tokio::spawn(async move {
            far.read_exact(&mut [0]).await.unwrap();
            flag.store(true, Ordering::Relaxed);
        });
        // Wait until the socket is ready.
        yield_now().await;
        near.write_all(&[1]).await.unwrap();
        // The task under test is spawned, because the main task is not in the run queue.
        let yielding = tokio::spawn(async move {
            let mut polls = 0;
            poll_fn(|cx| {
                polls += 1;
                if received.load(Ordering::Relaxed) || polls > 1_000 {
                    return Poll::Ready(polls);
                }
                yield_to_others(cx);
                Poll::Pending
            })
            .await
        });
        let polls = yielding.await.unwrap();
        reader.await.unwrap();
        assert!(polls <= 3, "polled {polls} times before the ready socket");
    }
}
