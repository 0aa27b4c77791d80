//! Limits the rate at which each source may connect. The limit is checked before any other work.
//!
//! Limits on client identities apply only after the handshake, which costs signature operations.
//! This limit needs only the source address and costs one look-up. If it is exceeded, the socket is
//! closed, and the access record is written as for every socket.

use std::time::{Duration, Instant};

use leastconn::{ClientId, Limiter, Limits, Refusal, ShortDuration};
use leastconn_config::{IpNet, SourceRateLimit};

use crate::reason_code::ReasonCode;

/// Capacity of the table, about 50 MiB. A source is idle once its bucket is full again, so the
/// table holds the sources that connected within the last `burst / rate` seconds.
const MAX_SOURCES: usize = 1 << 18;

/// The limit of one listener, with the token buckets of its sources.
#[derive(Debug)]
pub struct SourceLimit {
    config: SourceRateLimit,
    limits: Limits,
    sources: Limiter,
}

/// A source opens connections faster than the limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the source {source_net} opens connections faster than the listener's source_rate_limit; \
     the next is accepted in {}",
    ShortDuration(*.retry_after)
)]
pub struct SourceRateExceeded {
    source_net: IpNet,
    retry_after: Duration,
}

impl SourceRateExceeded {
    pub const fn reason(&self) -> ReasonCode {
        ReasonCode::RateLimited
    }
}

impl SourceLimit {
    /// `epoch` must not be later than any `now` that is passed to the other methods.
    pub fn new(config: SourceRateLimit, epoch: Instant) -> Self {
        Self::with_capacity(MAX_SOURCES, config, epoch)
    }

    fn with_capacity(capacity: usize, config: SourceRateLimit, epoch: Instant) -> Self {
        Self {
            config,
            limits: Limits::default().rate(Some(config.rate)),
            sources: Limiter::new(capacity, epoch),
        }
    }

    pub const fn config(&self) -> &SourceRateLimit {
        &self.config
    }

    /// Counts one connection of `source`.
    ///
    /// While the table is full, unknown sources are admitted: a limit per source does not stop an
    /// attacker with that many addresses, and refusing unknown sources would lock out all other
    /// clients.
    ///
    /// # Errors
    /// If the source exceeds its rate.
    pub fn admit(&self, source: IpNet, now: Instant) -> Result<(), SourceRateExceeded> {
        let id = ClientId::from(source.to_string());
        match self.sources.admit(&id, &self.limits, now) {
            Err(Refusal::RateLimited { retry_after }) => Err(SourceRateExceeded {
                source_net: source,
                retry_after,
            }),
            // Only the rate is limited, so the permit for a connection is not kept.
            _ => Ok(()),
        }
    }

    /// Forgets sources that are idle at `now`.
    pub fn forget_idle(&self, now: Instant) {
        self.sources.forget_idle(now);
    }

    /// The number of sources in the table.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr, Ipv6Addr},
        num::NonZeroU32,
    };

    use leastconn::{RateLimit, net};

    use super::*;
    use leastconn_config::Prefixes;

    fn limit(rate: f64, burst: u32) -> SourceRateLimit {
        SourceRateLimit {
            rate: RateLimit::new(rate, NonZeroU32::new(burst).unwrap()).unwrap(),
            prefixes: Prefixes::default(),
        }
    }

    fn v4(n: u32) -> IpNet {
        IpNet::of(Ipv4Addr::from_bits(n).into(), Prefixes::default())
    }

    #[test]
    fn each_source_has_burst_rate_and_retry_time() {
        let start = net::now();
        let limit = SourceLimit::new(limit(2.0, 3), start);
        for _ in 0..3 {
            limit.admit(v4(1), start).unwrap();
        }
        let error = limit.admit(v4(1), start).unwrap_err();
        assert_eq!(error.reason(), ReasonCode::RateLimited);
        let text = error.to_string();
        assert!(
            text.contains("0.0.0.1")
                && text.contains("source_rate_limit")
                && text.contains("500ms"),
            "{text}"
        );
        limit.admit(v4(2), start).unwrap();
        limit
            .admit(v4(1), start + Duration::from_millis(500))
            .unwrap();
    }

    #[test]
    fn addresses_are_grouped_by_prefix() {
        let network = |text: &str| IpNet::of(text.parse::<IpAddr>().unwrap(), Prefixes::default());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
        let wide = Prefixes { v4: 24, v6: 48 };
        let network = |address: IpAddr| IpNet::of(address, wide).to_string();
        assert_eq!(network(Ipv4Addr::new(10, 1, 2, 3).into()), "10.1.2.0/24");
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6);
        assert_eq!(network(v6.into()), "2001:db8:1::/48");
    }

    #[test]
    fn full_table_stays_bounded_and_admits_all() {
        const CAPACITY: usize = 4096;
        let start = net::now();
        let limit = SourceLimit::with_capacity(CAPACITY, limit(0.001, 1), start);
        for n in 0..1_000_000 {
            limit.admit(v4(n), start).unwrap();
        }
        assert!(limit.len() <= CAPACITY + 64, "{}", limit.len());
        limit.forget_idle(start + Duration::from_secs(1001));
        assert!(limit.is_empty());
    }
}
