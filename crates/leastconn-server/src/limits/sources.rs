//! The connection rate limit per source network.
//!
//! Limits per client need a certificate, which costs signatures. This one only needs an
//! address: it costs a look-up, and a refused socket is closed at once. Its access record is
//! written as for every socket.

use std::time::{Duration, Instant};

use leastconn::{ClientId, Limiter, Limits, Reason, Refusal, ShortDuration};

use crate::config::{IpNet, SourceRateLimit};

/// Maximum number of sources that are counted: about 50 MiB. A source with a full bucket is
/// idle and not kept, so this limits sources that connect within `burst / rate` seconds.
const MAX_SOURCES: usize = 1 << 18;

/// The limit of one listener, and the buckets of its sources.
#[derive(Debug)]
pub struct SourceLimit {
    config: SourceRateLimit,
    limits: Limits,
    sources: Limiter,
}

/// A source exceeds its connection rate.
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
    /// The reason code.
    pub const fn reason(&self) -> Reason {
        Reason::RateLimited
    }
}

impl SourceLimit {
    /// `epoch` must not be later than any `now` in later calls.
    pub fn new(config: SourceRateLimit, epoch: Instant) -> Self {
        Self::with_room_for(MAX_SOURCES, config, epoch)
    }

    fn with_room_for(sources: usize, config: SourceRateLimit, epoch: Instant) -> Self {
        Self {
            config,
            limits: Limits::default().rate(Some(config.rate)),
            sources: Limiter::new(sources, epoch),
        }
    }

    /// The configured limit.
    pub const fn config(&self) -> &SourceRateLimit {
        &self.config
    }

    /// Counts one connection of `source`.
    ///
    /// If the table is full, an unknown source is admitted: an attacker with that many
    /// addresses is not held by a limit per address, and refusing unknown sources would lock
    /// out everyone else.
    ///
    /// # Errors
    /// If the rate is exceeded.
    pub fn admit(&self, source: IpNet, now: Instant) -> Result<(), SourceRateExceeded> {
        let id = ClientId::from(source.to_string());
        match self.sources.admit(&id, &self.limits, now) {
            Err(Refusal::RateLimited { retry_after }) => Err(SourceRateExceeded {
                source_net: source,
                retry_after,
            }),
            // The permit is dropped: open connections are not counted here.
            _ => Ok(()),
        }
    }

    /// Forgets the sources that are idle at `now`.
    pub fn forget_idle(&self, now: Instant) {
        self.sources.forget_idle(now);
    }

    /// The number of sources in the table.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether the table is empty.
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
    use crate::config::Prefixes;

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
    fn each_source_has_its_burst_and_its_rate_and_is_told_when_to_come_again() {
        let start = net::now();
        let limit = SourceLimit::new(limit(2.0, 3), start);
        for _ in 0..3 {
            limit.admit(v4(1), start).unwrap();
        }
        let error = limit.admit(v4(1), start).unwrap_err();
        assert_eq!(error.reason(), Reason::RateLimited);
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
    fn an_ipv6_network_is_one_source_and_a_mapped_address_an_ipv4_one() {
        let of = |text: &str| IpNet::of(text.parse::<IpAddr>().unwrap(), Prefixes::default());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        let wide = Prefixes { v4: 24, v6: 48 };
        let of = |address: IpAddr| IpNet::of(address, wide).to_string();
        assert_eq!(of(Ipv4Addr::new(10, 1, 2, 3).into()), "10.1.2.0/24");
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6);
        assert_eq!(of(v6.into()), "2001:db8:1::/48");
    }

    #[test]
    fn of_a_million_sources_no_more_than_there_is_room_for_are_kept_and_all_are_let_in() {
        const ROOM: usize = 4096;
        let start = net::now();
        let limit = SourceLimit::with_room_for(ROOM, limit(0.001, 1), start);
        for n in 0..1_000_000 {
            limit.admit(v4(n), start).unwrap();
        }
        assert!(limit.len() <= ROOM + 64, "{}", limit.len());
        limit.forget_idle(start + Duration::from_secs(1001));
        assert!(limit.is_empty());
    }
}
