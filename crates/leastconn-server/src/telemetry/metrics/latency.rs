//! A histogram of durations whose quantiles the API can read.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

const BOUNDED: usize = 16;

/// Upper bounds of the buckets, in seconds: 0.25 ms to 8.2 s. A full handshake takes about 0.4 ms of
/// CPU and one or two round trips; connecting within a data centre takes much less time.
const BOUNDS: [f64; BOUNDED] = {
    let mut bounds = [0.000_25; BOUNDED];
    let mut at = 1;
    while at < BOUNDED {
        bounds[at] = bounds[at - 1] * 2.0;
        at += 1;
    }
    bounds
};

/// A histogram of durations, without a lock. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct LatencyHistogram(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The last bucket has no upper bound.
    buckets: [AtomicU64; BOUNDED + 1],
    sum_nanoseconds: AtomicU64,
}

/// The number of durations in each bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyCounts([u64; BOUNDED + 1]);

impl LatencyHistogram {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|&bound| seconds <= bound);
        self.0.buckets[bucket.unwrap_or(BOUNDED)].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0
            .sum_nanoseconds
            .fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The counts since the start.
    pub fn counts(&self) -> LatencyCounts {
        LatencyCounts(std::array::from_fn(|at| {
            self.0.buckets[at].load(Ordering::Relaxed)
        }))
    }
}

impl LatencyCounts {
    /// The counts since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|at| {
            self.0[at].saturating_sub(before.0[at])
        }))
    }

    fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The duration in seconds that the fraction `quantile` of all durations does not exceed,
    /// interpolated within a bucket. `None` without durations. At most the largest bound.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = quantile * total as f64;
        let mut below = 0;
        let mut from = 0.0;
        for (&count, &to) in self.0.iter().zip(&BOUNDS) {
            let reached = below + count;
            if count > 0 && reached as f64 >= rank {
                let share = (rank - below as f64) / count as f64;
                return Some(from + (to - from) * share.max(0.0));
            }
            (below, from) = (reached, to);
        }
        Some(from)
    }
}

impl EncodeMetric for LatencyHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let sum = Duration::from_nanos(self.0.sum_nanoseconds.load(Ordering::Relaxed));
        let counts = self.counts();
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts.0).collect();
        encoder.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), counts.total(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        let histogram = LatencyHistogram::default();
        assert_eq!(histogram.counts().quantile(0.5), None);
        for _ in 0..100 {
            histogram.observe(Duration::from_micros(700));
        }
        // The bucket from 0.5 to 1 ms.
        assert_eq!(histogram.counts().quantile(0.5), Some(0.000_75));
        assert_eq!(histogram.counts().quantile(1.0), Some(0.001));
        let before = histogram.counts();
        for _ in 0..10 {
            histogram.observe(Duration::from_secs(60));
        }
        let since = histogram.counts().since(&before);
        assert_eq!(since.quantile(0.5), Some(BOUNDS[BOUNDED - 1]));
        assert!(histogram.counts().quantile(0.9) < Some(0.001));
    }

    #[test]
    fn bounds_belong_to_the_lower_bucket() {
        let histogram = LatencyHistogram::default();
        histogram.observe(Duration::ZERO);
        histogram.observe(Duration::from_micros(250));
        histogram.observe(Duration::from_micros(251));
        assert_eq!(histogram.counts().0[..3], [2, 1, 0]);
    }
}
