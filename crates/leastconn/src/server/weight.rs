//! A server's weight, which can be changed while the pool is in use.

use std::num::NonZeroU32;

use super::{DRAIN, Server, ZERO_WEIGHT, count};
use crate::{
    Weight,
    sync::Ordering,
    weight::{Hundredths, WeightOverride},
};

impl Server {
    /// Returns the weight set by an operator.
    pub fn weight_override(&self) -> Option<WeightOverride> {
        *self.weight_override.lock()
    }

    /// Stores a weight that applies from the pool's next update on. Returns whether the weight has
    /// changed. Use this method only for servers that are about to join the pool; see
    /// [`Pool::update_with`](crate::Pool::update_with). For members, use
    /// [`Pool::set_weight`](crate::Pool::set_weight), which applies the weight immediately.
    pub fn set_weight_override(&self, weight: Option<WeightOverride>) -> bool {
        let mut current = self.weight_override.lock();
        std::mem::replace(&mut *current, weight) != weight
    }

    /// Returns the weight in effect. The operator's weight replaces the agent's.
    pub(crate) fn weight_in_effect(&self, configured: Weight) -> Hundredths {
        let of_agent = || {
            self.agent
                .lock()
                .weight_percent
                .map(WeightOverride::Percent)
        };
        Hundredths::new(configured, self.weight_override().or_else(of_agent))
    }

    /// Returns the connection limit in effect. The agent's limit replaces the configured one.
    pub(crate) fn max_conns_in_effect(&self, configured: Option<NonZeroU32>) -> Option<NonZeroU32> {
        self.agent.lock().max_conns.unwrap_or(configured)
    }

    /// Sets whether the weight in effect is zero. If the server has no connections when its weight
    /// changes from zero, it may have been restarted, so slow start begins, as after a drain.
    pub(crate) fn set_zero_weight(&self, is_zero: bool) {
        let flag = if is_zero { ZERO_WEIGHT } else { 0 };
        if self.word.load(Ordering::Acquire) & ZERO_WEIGHT == flag {
            return;
        }
        self.set_service_flags(ZERO_WEIGHT, flag, |word| {
            !is_zero && word & DRAIN == 0 && count(word) == 0
        });
    }
}
