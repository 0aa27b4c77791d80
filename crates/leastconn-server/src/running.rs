//! The running configuration, exchanged as a whole.
//!
//! Whoever starts something new (a connection, a look at the state) takes the
//! newest; what has started goes on with what it took until it is judged again.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use crate::{listener::Listener, state::State};

/// One configuration, running, and what its connections need to know.
#[derive(Debug)]
pub struct Current {
    /// Upstreams and rules.
    pub state: Arc<State>,
    /// By their names.
    pub listeners: HashMap<Arc<str>, Arc<Listener>>,
    /// Those that are gone from the configuration while connections of theirs are
    /// still open, as they were last.
    pub retired: HashMap<Arc<str>, Arc<Listener>>,
}

impl Current {
    /// The listener of this name, also if it has retired.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.get(name).or_else(|| self.retired.get(name))
    }
}

/// The newest [`Current`]. Reading takes no lock: every connection does.
#[derive(Debug)]
pub struct Running(ArcSwap<Current>);

impl Running {
    /// The first one.
    pub fn new(first: Current) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// The newest one.
    pub fn current(&self) -> Arc<Current> {
        self.0.load_full()
    }

    /// How many came before the newest.
    pub fn epoch(&self) -> u64 {
        self.0.load().state.epoch
    }

    /// The newest listener of this name.
    pub fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        self.0.load().listener(name).map(Arc::clone)
    }

    pub(crate) fn replace(&self, next: Current) {
        self.0.store(Arc::new(next));
    }
}
