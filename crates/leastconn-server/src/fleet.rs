//! Several balancers that act as one.

pub mod handle;
pub mod status;

pub use handle::{FleetHandle, FleetSlot, KillReport, NotSent};
pub use status::{FleetState, FleetStatus, MemberState, StoreStatus};
