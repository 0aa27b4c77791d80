//! Least-connections load balancing for TCP.
mod address;
pub mod backoff;
#[cfg(feature = "tokio")]
mod balancer;
pub mod health;
mod lease;
pub mod limit;
#[cfg(feature = "tokio")]
pub mod net;
pub mod pick;
mod pool;
mod reason;
mod server;
mod sync;
mod upstream;

pub use address::{Address, AddressError};
#[cfg(feature = "tokio")]
pub use balancer::{BalanceError, Balancer, BalancerBuilder, Transfer, UnknownServer};
pub use lease::Lease;
pub use limit::{Limiter, Limits, Permit, RateLimit, Refusal};
pub use pool::{Candidates, Member, Pool, PoolError, Tried};
pub use reason::Reason;
pub use server::{Server, ServerStatus};
pub use upstream::{AdminState, ClientId, ServerId, ServerSpec, UpstreamId, Weight};
