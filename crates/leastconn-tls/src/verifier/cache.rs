//! A bounded cache of chains that verified.

use std::{collections::HashMap, mem};

use crate::{chain::Validity, client_chain::Fingerprint};

/// Entries of one generation. There are two, so that the cache holds at most twice as many.
pub(super) const GENERATION: usize = 4096;

/// Chains that verified, with their validity.
///
/// New entries go to the young generation. Once it is full it becomes the old one, and the
/// entries of the old one that were not used since are dropped. So a stream of new clients
/// evicts those that do not return, at the cost of one or two lookups and no bookkeeping
/// for each hit.
#[derive(Debug, Default)]
pub(super) struct VerifiedChains {
    young: HashMap<Fingerprint, Validity>,
    old: HashMap<Fingerprint, Validity>,
}

impl VerifiedChains {
    pub(super) fn get(&mut self, fingerprint: &Fingerprint) -> Option<Validity> {
        if let Some(validity) = self.young.get(fingerprint) {
            return Some(*validity);
        }
        let validity = self.old.remove(fingerprint)?;
        self.insert(*fingerprint, validity);
        Some(validity)
    }

    pub(super) fn insert(&mut self, fingerprint: Fingerprint, validity: Validity) {
        if self.young.len() >= GENERATION {
            mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(fingerprint, validity);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(number: usize) -> Fingerprint {
        let mut fingerprint = [0; 32];
        fingerprint[..8].copy_from_slice(&number.to_be_bytes());
        fingerprint
    }

    const VALIDITY: Validity = Validity {
        from: 0,
        until: 1,
        lists_until: 1,
    };

    #[test]
    fn used_entries_survive_many_new_ones() {
        let mut cache = VerifiedChains::default();
        cache.insert(fingerprint(0), VALIDITY);
        for number in 1..10 * GENERATION {
            cache.insert(fingerprint(number), VALIDITY);
            if number % 100 == 0 {
                assert!(cache.get(&fingerprint(0)).is_some());
            }
            assert!(cache.len() <= 2 * GENERATION);
        }
        assert!(cache.get(&fingerprint(1)).is_none());
    }
}
