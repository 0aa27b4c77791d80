//! The deadline of the steps before authorization.

use std::{future::Future, pin::Pin};

use tokio::time::Sleep;

use super::{access_record::AccessRecord, ended::Ended};
use crate::reason_code::ReasonCode;

/// Runs one step. Fails with the reason `late` if the deadline passes. If another task ends the
/// connection, fails with the reason given by that task. Large futures must be pinned by the
/// caller, because arguments are moved.
pub(super) async fn before_deadline<F: Future + Unpin>(
    record: &AccessRecord,
    deadline: Pin<&mut Sleep>,
    late: ReasonCode,
    step: F,
) -> Result<F::Output, Ended> {
    tokio::select! {
        biased;
        reason = record.connection().stopped() => Err(reason.into()),
        done = step => Ok(done),
        () = deadline => Err(late.into()),
    }
}
