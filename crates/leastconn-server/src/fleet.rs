//! Membership in a fleet: several balancers that share limits, server counts and commands of
//! operators through a store.
//!
//! ```text
//! connections ──► Membership (atomics)          read on the hot path, never blocks
//!      │ wake
//!      ▼
//! fleet thread: exchange::run ──► Store::exchange (one at a time)
//!      │ report, apply, cut off
//!      ▼
//! participants: client limits, server counts, commands of operators
//! ```
//!
//! The exchange runs on its own thread with its own runtime: the workers of a busy balancer spend
//! milliseconds in handshakes, which would delay the exchange, and a slow DNS answer or TLS
//! handshake of the store must not delay clients.
//!
//! **Self-fencing.** Decisions may use the numbers of other members for [`MAX_AGE`] after
//! the report was sent that they answer. Each decision compares its own time with this deadline,
//! so that a process that was paused cannot decide by old numbers, whether or not the fleet thread
//! has run again.

pub mod clients;
mod exchange;
pub mod handle;
mod member;
mod member_settings;
mod membership;
mod operators;
mod participant;
mod running;
mod servers;
mod shared;
mod state;
pub mod status;
mod wake;

pub use handle::{FleetHandle, FleetSlot, KillReport, NotSent};
pub use member::FleetMember;
pub use member_settings::MemberSettings;
pub use membership::{Membership, SharedMembership};
pub use operators::OperatorTarget;
pub use participant::{Exchange, Participant};
pub use servers::{ServerSettings, SharedServers, Upstreams};
pub use state::MAX_AGE;
pub use status::{FleetState, FleetStatus, MemberState, StoreStatus};
pub use wake::Wake;

#[cfg(test)]
mod tests;
