//! The interface between handshakes and the handshake scheduler.

/// The handshake was ended while it waited for its client, because too many handshakes were
/// waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client was slow to answer while too many handshakes waited for their clients")]
pub struct Evicted;

/// The scheduler's handle for one handshake in progress.
///
/// The handshake requests a [time slice](Self::time_slice) before each step that costs CPU
/// time. The handshake also reports each wait for its client. During such a wait, the
/// scheduler may let another handshake run.
///
/// The futures need not be `Send`, because sockets in tests are not `Send`.
pub trait Permit {
    /// The right to use the CPU for one step, until this value is dropped.
    type TimeSlice<'a>
    where
        Self: 'a;

    /// Waits until the next step may run. Drop the time slice before the next network
    /// operation: a step must not wait.
    ///
    /// # Cancel safety
    /// Dropping the future releases its place in the queue.
    fn time_slice(&self) -> impl Future<Output = Self::TimeSlice<'_>>;

    /// Waits for `client`, an event that only the client can cause.
    ///
    /// # Errors
    /// If the handshake is evicted, because too many handshakes are waiting.
    ///
    /// # Cancel safety
    /// The same as that of `client`.
    fn wait_for_client<T>(
        &self,
        client: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, Evicted>>;
}

/// A permit without a scheduler: each step runs immediately, and the handshake is never evicted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unscheduled;

impl Permit for Unscheduled {
    type TimeSlice<'a> = ();

    async fn time_slice(&self) {}

    async fn wait_for_client<T>(&self, client: impl Future<Output = T>) -> Result<T, Evicted> {
        Ok(client.await)
    }
}
