//! The seam between a balancer and the store.

use std::future::Future;

use crate::{report::Report, view::View};

/// A store that the members of a fleet share.
pub trait Store: Send {
    /// Sends a report and receives the view of the fleet.
    ///
    /// If the future is dropped or fails, the report may have been applied or not. The caller
    /// must send the same batch again. The implementation drops its connection and opens a new
    /// one with the next call.
    fn exchange(
        &mut self,
        report: &Report,
    ) -> impl Future<Output = Result<View, StoreError>> + Send;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be reached, or the connection failed.
    #[error("{0}")]
    Unavailable(String),
    /// The store refuses the user, the password or a command.
    #[error("{0}")]
    Refused(String),
    /// The answer is not understood.
    #[error("{0}")]
    Invalid(String),
}
