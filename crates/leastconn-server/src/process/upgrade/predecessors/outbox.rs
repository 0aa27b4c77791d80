//! Messages that a predecessor has not read yet.

use std::{
    collections::VecDeque,
    mem::{Discriminant, discriminant},
    pin::pin,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::NewestMessage;

/// Maximum number of messages that wait. A predecessor that is paused for a short time must not
/// lose messages.
const MAX_MESSAGES: usize = 256;

/// A queue of encoded messages, for one writer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    pushed: Notify,
    flushed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(Discriminant<NewestMessage>, Arc<[u8]>)>,
    is_writing: bool,
    is_closed: bool,
}

impl Queue {
    fn is_flushed(&self) -> bool {
        self.is_closed || (self.messages.is_empty() && !self.is_writing)
    }
}

impl Outbox {
    /// Adds a message, encoded as `line`. Returns `false` if too many messages are waiting.
    pub(super) fn push(&self, message: &NewestMessage, line: &Arc<[u8]>) -> bool {
        let kind = discriminant(message);
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return true;
        }
        match message {
            // The later message has the whole effect of the earlier one.
            NewestMessage::Blocked(_)
            | NewestMessage::Reloaded {}
            | NewestMessage::ReopenedLogs {} => {
                queue.messages.retain(|(waiting, _)| *waiting != kind);
            }
            NewestMessage::TookOver { .. } | NewestMessage::Killed(_) => {}
        }
        if queue.messages.len() >= MAX_MESSAGES {
            return false;
        }
        queue.messages.push_back((kind, Arc::clone(line)));
        drop(queue);
        self.pushed.notify_one();
        true
    }

    /// Takes the next message. The caller must call [`Self::written`] after writing it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn next(&self) -> Arc<[u8]> {
        loop {
            let next = {
                let mut queue = self.queue.lock();
                let next = queue.messages.pop_front();
                queue.is_writing = next.is_some();
                next
            };
            match next {
                Some((_, line)) => return line,
                None => self.pushed.notified().await,
            }
        }
    }

    pub(super) fn written(&self) {
        let mut queue = self.queue.lock();
        queue.is_writing = false;
        if queue.is_flushed() {
            self.flushed.notify_waiters();
        }
    }

    /// Waits until all messages are written, or the outbox is closed.
    pub(super) async fn flushed(&self) {
        loop {
            let mut flushed = pin!(self.flushed.notified());
            // Register before the check, so that a change in between is not missed.
            flushed.as_mut().enable();
            if self.queue.lock().is_flushed() {
                return;
            }
            flushed.await;
        }
    }

    /// Drops all messages, now and later. Returns whether a message was being written.
    pub(super) fn close(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        queue.messages.clear();
        self.flushed.notify_waiters();
        queue.is_writing
    }
}
