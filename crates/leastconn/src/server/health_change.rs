//! The effects of a health change.

#[cfg(feature = "tokio")]
use crate::health::Availability;

#[derive(Clone, Copy, Debug)]
pub(super) struct HealthChange {
    pub(super) is_up_changed: bool,
    #[cfg(feature = "tokio")]
    pub(super) transition: Option<Transition>,
    /// Whether all remembered failures were cleared.
    pub(super) recovered: bool,
}

/// A change of a server's availability, for log messages.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// The server was ejected or down.
    Up,
    /// The server was up.
    Ejected,
    /// The server was up or ejected.
    Down,
}

#[cfg(feature = "tokio")]
impl Transition {
    /// Returns `None` for a server that was down and is still ejected: it gets no connections, as
    /// before.
    pub(super) const fn between(was: Availability, is: Availability) -> Option<Self> {
        use Availability::{Down, Ejected, Up};
        match (was, is) {
            (Ejected(_) | Down, Up) => Some(Self::Up),
            (Up, Ejected(_)) => Some(Self::Ejected),
            (Up | Ejected(_), Down) => Some(Self::Down),
            (Up, Up) | (Ejected(_), Ejected(_)) | (Down, Ejected(_) | Down) => None,
        }
    }
}
