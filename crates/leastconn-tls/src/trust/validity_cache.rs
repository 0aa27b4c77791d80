//! A bounded cache of verified chains in two generations.
//!
//! When the current generation is full, it becomes the previous generation, and the old
//! previous generation is dropped. A hit in the previous generation moves the entry to the
//! current generation. Thus chains in use stay cached, although the cache does not record
//! when each chain was used.

use std::collections::HashMap;

use super::Validity;
use crate::client_chain::Fingerprint;

#[derive(Debug)]
pub(super) struct ValidityCache {
    current: HashMap<Fingerprint, Validity>,
    previous: HashMap<Fingerprint, Validity>,
    /// Maximum number of entries of one generation.
    generation_size: usize,
}

impl ValidityCache {
    /// Creates a cache of at most `capacity` chains. The `capacity / 2` most recently used chains
    /// are always cached.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            current: HashMap::new(),
            previous: HashMap::new(),
            generation_size: (capacity / 2).max(1),
        }
    }

    pub(super) fn get(&mut self, chain: &Fingerprint) -> Option<Validity> {
        if let Some(validity) = self.current.get(chain) {
            return Some(*validity);
        }
        let validity = self.previous.remove(chain)?;
        self.insert(*chain, validity);
        Some(validity)
    }

    pub(super) fn insert(&mut self, chain: Fingerprint, validity: Validity) {
        if self.current.len() >= self.generation_size && !self.current.contains_key(&chain) {
            self.previous = std::mem::take(&mut self.current);
        }
        self.current.insert(chain, validity);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALIDITY: Validity = Validity {
        from: 0,
        until: i64::MAX,
        crls_until: i64::MAX,
    };

    fn chain(number: usize) -> Fingerprint {
        let mut chain = [0; 32];
        chain[..8].copy_from_slice(&number.to_be_bytes());
        chain
    }

    #[test]
    fn cache_is_bounded_and_keeps_the_newest() {
        let mut cache = ValidityCache::new(64);
        for number in 0..1000 {
            cache.insert(chain(number), VALIDITY);
            for recent in number.saturating_sub(31)..=number {
                assert!(cache.get(&chain(recent)).is_some(), "{number} {recent}");
            }
            assert!(cache.len() <= 64);
        }
        assert_eq!(cache.get(&chain(0)), None);
    }

    #[test]
    fn used_chains_stay_cached() {
        let mut cache = ValidityCache::new(64);
        for number in 0..1000 {
            cache.insert(chain(number), VALIDITY);
            assert!(cache.get(&chain(0)).is_some(), "{number}");
        }
    }
}
