//! The seam between a balancer and the store.

use std::future::Future;

use crate::{member::MemberId, report::Report, view::View};

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

    /// Removes the member and its numbers, which count no longer.
    ///
    /// Other members forget a member that does not call this after `gone_after`.
    fn leave(&mut self, member: &MemberId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Address, product and version of the server, for operators. `None`: not connected.
    fn server(&self) -> Option<&str>;

    /// Drops the connection. The next exchange opens a new one and sends everything again, and
    /// its view contains the changes of the last view again. For a process that was paused: the
    /// other members may have removed its numbers, and it must not use the last view.
    fn disconnect(&mut self);
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
