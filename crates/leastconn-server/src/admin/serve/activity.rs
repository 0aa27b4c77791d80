//! Tracks idle connections, so that the one that has been idle longest can be evicted when there
//! are too many.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use hyper::body::{Bytes, Frame, SizeHint};
use leastconn::net;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// The connections of one socket, in the order in which they were accepted.
#[derive(Debug, Default)]
pub(in crate::admin) struct Activities {
    all: Vec<Arc<Activity>>,
    /// Notified when a connection becomes idle.
    idle: Arc<Notify>,
}

/// State of one connection.
#[derive(Debug)]
pub(in crate::admin) struct Activity {
    /// `None` while a request is being answered.
    idle_since: Mutex<Option<Instant>>,
    has_answered: AtomicBool,
    evict: Notify,
    idle: Arc<Notify>,
}

impl Activities {
    /// Registers a connection.
    pub(in crate::admin) fn add(&mut self) -> Arc<Activity> {
        // The task of an open connection holds a second reference.
        self.all.retain(|one| Arc::strong_count(one) > 1);
        let one = Arc::new(Activity {
            idle_since: Mutex::new(Some(net::now())),
            has_answered: AtomicBool::new(false),
            evict: Notify::new(),
            idle: Arc::clone(&self.idle),
        });
        self.all.push(Arc::clone(&one));
        one
    }

    /// Number of open connections, excluding evicted ones.
    pub(in crate::admin) fn count(&mut self) -> usize {
        self.all.retain(|one| Arc::strong_count(one) > 1);
        self.all.len()
    }

    pub(in crate::admin) fn has_idle(&self) -> bool {
        self.all.iter().any(|one| one.idle_since().is_some())
    }

    /// Evicts the connection that has been idle longest, if any is idle.
    pub(in crate::admin) fn evict(&mut self) {
        let idle = self.all.iter().enumerate();
        let idle = idle.filter_map(|(n, one)| Some(((*one.idle_since())?, n)));
        if let Some((_, longest)) = idle.min() {
            self.all.remove(longest).evict.notify_one();
        }
    }

    /// Waits until a connection becomes idle.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(in crate::admin) async fn becomes_idle(&self) {
        self.idle.notified().await;
    }
}

impl Activity {
    fn idle_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.idle_since.lock()
    }

    /// Marks the connection as busy after a request was received.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        *self.idle_since() = None;
        Busy(Arc::clone(self))
    }

    /// Waits until this connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }

    /// Whether the connection has answered a request.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Acquire)
    }
}

/// Marks a connection as busy until dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    /// Keeps the connection busy until the end of the response.
    pub(super) fn until_end(self, body: Body) -> Body {
        Body::new(Answer { body, _busy: self })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.has_answered.store(true, Ordering::Release);
        *self.0.idle_since() = Some(net::now());
        self.0.idle.notify_one();
    }
}

/// A response body that keeps its connection busy.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_longest_idle_connection_is_evicted() {
        let mut all = Activities::default();
        let [a, b, c] = [(); 3].map(|()| all.add());
        let busy = a.begin();
        drop(b.begin());
        // `c` has been idle since it was accepted, `b` since its request.
        let evicted = |one: &Arc<Activity>| Arc::strong_count(one) == 1;
        all.evict();
        assert!(!evicted(&a) && !evicted(&b) && evicted(&c));
        all.evict();
        assert!(!evicted(&a) && evicted(&b));
        assert!(!all.has_idle());
        all.evict();
        assert!(!evicted(&a));
        drop(busy);
        assert!(all.has_idle() && a.has_answered());
        drop(a);
        assert_eq!(all.count(), 0);
    }
}
