//! Hands one value over to a waiting task.

use std::{
    mem,
    task::{Context, Poll, Waker},
};

use crate::sync::Mutex;

/// State shared by a waiting task and the code that hands a value over to it.
#[derive(Debug)]
pub(crate) struct OneShot<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    Waiting(Option<Waker>),
    Ready(T),
    /// The task has taken the value or has stopped waiting.
    Done,
}

impl<T> Default for OneShot<T> {
    fn default() -> Self {
        Self(Mutex::new(State::Waiting(None)))
    }
}

impl<T> OneShot<T> {
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(*self.0.lock(), State::Waiting(_))
    }

    /// Hands over `value`. Returns the waker of the waiting task.
    pub(crate) fn set(&self, value: T) -> Option<Waker> {
        match mem::replace(&mut *self.0.lock(), State::Ready(value)) {
            State::Waiting(waker) => waker,
            State::Ready(_) | State::Done => None,
        }
    }

    /// Hands over the value that `value` returns if the task is still waiting. `value` is called
    /// only in that case. Returns whether the task was waiting, and its waker.
    pub(crate) fn set_with(&self, value: impl FnOnce() -> T) -> (bool, Option<Waker>) {
        let mut state = self.0.lock();
        let State::Waiting(waker) = &mut *state else {
            return (false, None);
        };
        let waker = waker.take();
        *state = State::Ready(value());
        (true, waker)
    }

    /// Ends the wait. Returns the value if it was handed over but not taken.
    pub(crate) fn take(&self) -> Option<T> {
        let state = mem::replace(&mut *self.0.lock(), State::Done);
        match state {
            State::Ready(value) => Some(value),
            State::Waiting(_) | State::Done => None,
        }
    }

    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<T> {
        let mut state = self.0.lock();
        match mem::replace(&mut *state, State::Done) {
            State::Ready(value) => Poll::Ready(value),
            State::Done => Poll::Pending,
            State::Waiting(_) => {
                *state = State::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}
