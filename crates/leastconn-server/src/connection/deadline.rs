//! The deadline of the steps before authorization.

use std::{future::Future, pin::Pin};

use leastconn::Reason;
use tokio::time::Sleep;

use super::{access_record::AccessRecord, ended::Ended};

/// Runs one step unless the deadline passes or another task ends the connection.
pub(super) async fn before_deadline<T>(
    record: &AccessRecord,
    deadline: Pin<&mut Sleep>,
    late: Reason,
    step: impl Future<Output = T>,
) -> Result<T, Ended> {
    tokio::select! {
        biased;
        reason = record.connection().stopped() => Err(reason.into()),
        done = step => Ok(done),
        () = deadline => Err(late.into()),
    }
}
