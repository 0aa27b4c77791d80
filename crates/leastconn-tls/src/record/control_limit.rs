//! How many records without data a peer may send: key updates, warnings, empty records.

use std::time::{Duration, Instant};

/// Control records that are read without delay.
const BURST: u32 = 100;

/// One more is allowed after each such interval. HAProxy allows as many key updates.
const INTERVAL: Duration = Duration::from_millis(10);

/// Control records that are read with a delay. One more ends the connection, unless the
/// peer was quiet long enough for a whole burst.
const DELAYED: u32 = 200;

/// Bytes of data that we send for which one more control record is free. A JDK that has
/// reached its key limit asks for new keys with each record that it reads, until it reads
/// our answer behind all that was on its way: once for each 16 KiB at most.
const BYTES_PER_CREDIT: usize = 4 * 1024;

/// What may be on its way to a peer: send buffer and receive buffer.
const IN_FLIGHT: usize = 16 * 1024 * 1024;

/// What to do with a control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Process,
    /// Process it, and read the next record after the delay.
    Delay(Duration),
    /// End the connection.
    Refuse,
}

/// A token bucket for control records, which cost work and carry nothing.
///
/// Data that the peer sends does not refill it: a byte between two key updates must not
/// make them free. Data that we send does, see [`BYTES_PER_CREDIT`]; it costs the peer
/// far more to receive that.
#[derive(Debug)]
pub(crate) struct ControlLimit {
    left: u32,
    delayed: u32,
    /// Up to when time was counted. `None`: no control record has come.
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

    /// Counts data that we send.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes).min(IN_FLIGHT);
    }

    /// Counts a control record.
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
        // What the interval would bring back pays for this one.
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
        // The first one that is delayed ends the count.
        assert_eq!(takes(&mut limit, now), BURST);
        for _ in 1..DELAYED {
            now += INTERVAL;
            assert_eq!(limit.take(now), Verdict::Delay(INTERVAL));
        }
        now += INTERVAL;
        assert_eq!(limit.take(now), Verdict::Refuse);
    }

    #[test]
    fn quiet_second_forgives_everything() {
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
        // Not without a bound.
        let mut limit = ControlLimit::new();
        limit.sent(1 << 40);
        assert_eq!(takes(&mut limit, now), BURST + (16 << 20) / 4096);
    }

    #[test]
    fn small_answers_do_not_pay_for_a_flood() {
        let now = leastconn::net::now();
        let mut limit = ControlLimit::new();
        let mut free = 0;
        loop {
            // An echo of one byte for each of them.
            limit.sent(1);
            if limit.take(now) != Verdict::Process {
                break;
            }
            free += 1;
        }
        assert_eq!(free, BURST);
    }
}
