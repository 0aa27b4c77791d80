//! What a member computes from the numbers of servers, before it reports them and after it has
//! received those of the others. Pure: no I/O, and the time is an argument.

mod dial_rate;
mod slot_demand;

pub use dial_rate::{DialRate, echo_per_dial};
pub use slot_demand::{SlotDemand, SlotSituation};
