//! The deadline of the steps before authorization.

use std::{future::Future, pin::Pin};

use tokio::time::Sleep;

use super::{access_record::AccessRecord, ended::Ended};
use crate::reason_code::ReasonCode;

/// Runs one step. Fails with the reason `late` if the deadline passes. If another task ends the
/// connection, fails with the reason given by that task.
pub(super) async fn before_deadline<T>(
    record: &AccessRecord,
    deadline: Pin<&mut Sleep>,
    late: ReasonCode,
    step: impl Future<Output = T>,
) -> Result<T, Ended> {
    tokio::select! {
        biased;
        reason = record.connection().stopped() => Err(reason.into()),
        done = step => Ok(done),
        () = deadline => Err(late.into()),
    }
}
