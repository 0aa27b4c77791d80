//! What all sides of a running balancer see: the server that drives it, and the
//! admin side that shows it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use crate::{live::Registry, record::Books, state::State};

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not everything is bound yet.
    Starting,
    /// Serving.
    Ready,
    /// Serving what is open, taking nothing new.
    Draining,
}

/// What the admin side sees of a running balancer.
#[derive(Debug)]
pub struct Shared {
    /// The running configuration.
    pub state: Arc<State>,
    /// Open connections.
    pub registry: Arc<Registry>,
    /// Counters and log.
    pub books: Books,
    phase: AtomicU8,
}

impl Shared {
    /// A process that is starting.
    pub const fn new(state: Arc<State>, registry: Arc<Registry>, books: Books) -> Self {
        Self {
            state,
            registry,
            books,
            phase: AtomicU8::new(Phase::Starting as u8),
        }
    }

    /// Where the process is in its life.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// The process goes on to `phase`.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }
}
