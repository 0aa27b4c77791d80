//! Several balancers that act as one: the members of a fleet exchange numbers through a
//! [`Store`], which is a Valkey or Redis server.
//!
//! A member sends one [`Report`] at a time and receives a [`View`]. Every member writes only its
//! own absolute numbers; the store adds up the numbers of the members that are alive. All
//! times are measured by the clock of the store, so the clocks of the members do not matter.

pub mod acl;
#[cfg(test)]
mod cases;
mod codec;
pub mod endpoint;
mod events;
mod exchange;
pub mod keys;
pub mod member;
pub mod memory;
pub mod operator;
mod operator_history;
mod operator_log;
pub mod redis;
pub mod report;
pub mod secret;
pub mod servers;
mod session;
pub mod settings;
mod state;
pub mod store;
pub mod view;

pub use acl::acl_rule;
pub use endpoint::{Endpoint, Password, RedisSettings, StoreTls};
pub use keys::{ClientKey, ServerKey};
pub use member::{MemberId, MemberStatus};
pub use memory::{Faults, InMemory, MemoryServer};
pub use operator::{
    Acknowledgement, BlockTarget, Command, CommandId, CommandRecord, OperatorState,
};
pub use operator_history::{OperatorHistory, SavedHistory};
pub use redis::Redis;
pub use report::{Batch, ClientReport, Counts, Facts, Report, ServerCount, SlotReport};
pub use secret::Secret;
pub use settings::FleetSettings;
pub use store::{Store, StoreError};
pub use view::{ClientView, MemberView, SlotView, View};
