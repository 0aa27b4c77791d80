//! Scheduling of handshakes: the interface to the scheduler.

use leastconn::Reason;

/// The handshake was ended while it waited for its client, because too many handshakes did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client was slow to answer while too many handshakes waited for their clients")]
pub struct Evicted;

impl Evicted {
    /// The reason code.
    pub const fn reason(self) -> Reason {
        Reason::Overloaded
    }
}

/// A handshake in progress, from the view of its scheduler.
///
/// The handshake asks for a [time slice](Self::time_slice) before each step that costs CPU
/// time, and reports each wait for the client, during which the scheduler may let another
/// handshake run.
///
/// The futures need not be `Send`, because sockets in tests are not.
pub trait Permit {
    /// The CPU for one step, until this is dropped.
    type TimeSlice<'a>
    where
        Self: 'a;

    /// Waits until the next step may run. The step must not wait for anything: drop the
    /// time slice before the next network operation.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    fn time_slice(&self) -> impl Future<Output = Self::TimeSlice<'_>>;

    /// Waits for an event that only the client can cause.
    ///
    /// # Errors
    /// If the handshake must end, because too many wait.
    ///
    /// # Cancel safety
    /// That of `client`.
    fn wait_for_client<T>(
        &self,
        client: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, Evicted>>;
}

/// The permit of handshakes that are not scheduled: they run at once and are never evicted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unscheduled;

impl Permit for Unscheduled {
    type TimeSlice<'a> = ();

    async fn time_slice(&self) {}

    async fn wait_for_client<T>(&self, client: impl Future<Output = T>) -> Result<T, Evicted> {
        Ok(client.await)
    }
}
