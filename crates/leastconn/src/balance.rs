//! The balancing algorithms.

pub(crate) mod least_conn;
pub(crate) mod slow_start;
pub(crate) mod wrr;
