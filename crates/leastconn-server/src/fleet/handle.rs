//! What the admin interface needs of a fleet.

use std::{fmt, pin::Pin, sync::Arc};

use arc_swap::ArcSwapOption;
use leastconn_fleet::Command;

use super::status::FleetStatus;

/// A boxed future, so that [`FleetHandle`] is dyn compatible.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The running member of a fleet.
///
/// The futures do not depend on the handle, and may run on any Tokio runtime. Every future
/// completes within about two seconds, also while the store does not answer. A dropped future may
/// have sent its command or not.
pub trait FleetHandle: fmt::Debug + Send + Sync {
    fn status(&self) -> FleetStatus;

    /// Sends a command to all members. Completes when the store has accepted it, and what it sets
    /// was applied to the overrides of this process.
    fn send(&self, command: Command) -> Answer<Result<(), NotSent>>;

    /// Sends a kill to all other members, and waits until all of them have acknowledged it, but at
    /// most about a second. `filter` is JSON with the keys of `POST /api/v1/connections/kill`.
    /// Connections of this process are not closed.
    fn kill(&self, filter: String) -> Answer<Result<KillReport, NotSent>>;
}

/// The other members after a kill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillReport {
    /// Members that have carried out the kill, with the number of connections that they closed.
    pub killed: Vec<(String, u64)>,
    /// Members that were alive, but did not acknowledge the kill in time.
    pub missing: Vec<String>,
}

/// The store did not confirm a command. The text gives the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotSent(pub String);

impl NotSent {
    /// `was_sent`: the store may have received the command, and its answer was lost.
    pub(super) fn unanswered(text: &str, was_sent: bool) -> Self {
        Self(match was_sent {
            true => format!("{text}; the fleet may have carried it out nevertheless"),
            false => text.to_owned(),
        })
    }
}

/// Holds the handle while the process is a member of a fleet. A reload can add, replace and
/// remove it.
#[derive(Debug, Default)]
pub struct FleetSlot(ArcSwapOption<Box<dyn FleetHandle>>);

impl FleetSlot {
    /// `None`: this balancer acts alone.
    pub fn get(&self) -> Option<Arc<Box<dyn FleetHandle>>> {
        self.0.load_full()
    }

    pub fn set(&self, handle: Option<Box<dyn FleetHandle>>) {
        self.0.store(handle.map(Arc::new));
    }
}
