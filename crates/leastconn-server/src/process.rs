//! Process management: listening sockets inherited from systemd or a predecessor,
//! upgrades to a new binary, notifications to systemd, the descriptor limit, and the runtime.

pub mod descriptors;
pub mod inherited;
pub mod notify;
pub mod predecessors;
pub mod runtime;
pub mod upgrade;
