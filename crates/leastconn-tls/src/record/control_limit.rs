//! Limits the records without data that a peer may send: key updates, warnings, empty
//! records.

use std::time::{Duration, Instant};

/// Number of control records that are read without delay.
const BURST: u32 = 100;

/// Interval after which one token is added.
const INTERVAL: Duration = Duration::from_millis(10);

/// Number of control records after the burst that are read with a delay. The next control
/// record ends the connection. The count restarts when the bucket is full again.
const DELAYED: u32 = 200;

/// Bytes of sent data that allow one more control record. A JDK that has reached its key
/// limit requests new keys with each record that it reads, until it reads our answer. The
/// answer arrives after all data in flight. The JDK therefore sends at most one request per
/// record of 16 KiB.
const BYTES_PER_CREDIT: usize = 4 * 1024;

/// Maximum amount of data in flight to a peer: send buffer and receive buffer.
const IN_FLIGHT: usize = 16 * 1024 * 1024;

/// What to do with a control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Process,
    /// Process the control record, and wait for this time before reading the next record.
    Delay(Duration),
    Refuse,
}

/// A token bucket for control records, which cost work and carry no data.
///
/// Data from the peer does not refill the bucket. Otherwise the peer could send any number of
/// key updates, with one byte of data after each. Data that this side sends refills the bucket
/// (see [`BYTES_PER_CREDIT`]), because receiving the data costs the peer far more than a
/// control record costs this side.
#[derive(Debug)]
pub(crate) struct ControlLimit {
    left: u32,
    delayed: u32,
    /// Time up to which tokens were added. `None` if no control record was received.
    counted: Option<Instant>,
    sent: usize,
}

impl ControlLimit {
    pub(crate) const fn new() -> Self {
        Self {
            left: BURST,
            delayed: 0,
            counted: None,
            sent: 0,
        }
    }

    /// Adds the credit for sent data.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes).min(IN_FLIGHT);
    }

    /// Takes a token for a control record.
    pub(crate) fn take(&mut self, now: Instant) -> Verdict {
        self.refill(now);
        if let Some(sent) = self.sent.checked_sub(BYTES_PER_CREDIT) {
            self.sent = sent;
            return Verdict::Process;
        }
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Verdict::Process;
        }
        if self.delayed == DELAYED {
            return Verdict::Refuse;
        }
        self.delayed += 1;
        // Add no tokens for the duration of the delay.
        self.counted = Some(now + INTERVAL);
        Verdict::Delay(INTERVAL)
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(*self.counted.get_or_insert(now));
        let more = since.as_millis() / INTERVAL.as_millis();
        if more == 0 {
            return;
        }
        let more = u32::try_from(more).unwrap_or(BURST);
        self.left = self.left.saturating_add(more).min(BURST);
        self.counted = Some(now);
        if self.left == BURST {
            self.delayed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(limit: &mut ControlLimit, now: Instant) -> u32 {
        let free = (0..).take_while(|_| limit.take(now) == Verdict::Process);
        u32::try_from(free.count()).unwrap()
    }

    #[test]
    fn flood_is_delayed_and_then_refused() {
        let mut now = leastconn::net::now();
        let mut limit = ControlLimit::new();
        // This call also takes the first delayed record.
        assert_eq!(takes(&mut limit, now), BURST);
        for _ in 1..DELAYED {
            now += INTERVAL;
            assert_eq!(limit.take(now), Verdict::Delay(INTERVAL));
        }
        now += INTERVAL;
        assert_eq!(limit.take(now), Verdict::Refuse);
    }

    #[test]
    fn bucket_is_full_after_a_quiet_second() {
        let mut now = leastconn::net::now();
        let mut limit = ControlLimit::new();
        for _ in 0..100 {
            assert_eq!(takes(&mut limit, now), BURST);
            now += Duration::from_secs(1) + INTERVAL;
        }
        now += Duration::from_secs(1 << 32);
        assert_eq!(takes(&mut limit, now), BURST);
    }

    #[test]
    fn data_in_flight_allows_a_key_update_each() {
        let now = leastconn::net::now();
        let mut limit = ControlLimit::new();
        limit.sent(1 << 20);
        assert_eq!(takes(&mut limit, now), BURST + (1 << 20) / 4096);
        // The credit for sent data is limited.
        let mut limit = ControlLimit::new();
        limit.sent(1 << 40);
        assert_eq!(takes(&mut limit, now), BURST + (16 << 20) / 4096);
    }

    #[test]
    fn small_answers_give_no_credit() {
        let now = leastconn::net::now();
        let mut limit = ControlLimit::new();
        let mut free = 0;
        loop {
            // Each control record is answered by an echo of one byte.
            limit.sent(1);
            if limit.take(now) != Verdict::Process {
                break;
            }
            free += 1;
        }
        assert_eq!(free, BURST);
    }
}
