//! The lists of one `tls` table that are in force, and what they say of a certificate.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;

use crate::names;

use super::{
    RevocationList,
    scope::{Coverage, Points, Role},
};

/// A list with what is known of it beyond its own content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The list.
    pub list: Arc<RevocationList>,
    /// The file that it is in, as configured.
    pub file: Arc<str>,
    /// The public keys (SubjectPublicKeyInfo) that its signature was verified with, all
    /// of authorities of its issuer's name.
    pub keys: Vec<Box<[u8]>>,
}

/// A list that is in force.
pub type InForce = Loaded;

/// A list that another one replaces.
#[derive(Clone, Debug)]
pub struct Superseded {
    /// The list that is ignored.
    pub ignored: Loaded,
    /// The list that is in force in its place.
    pub by: Loaded,
    /// The ignored list is the younger one by `thisUpdate`: its issuer may have started
    /// numbering anew.
    pub is_younger_by_date: bool,
}

/// The lists in force: of each issuer (name and key) and partition the newest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CrlStore {
    lists: Vec<InForce>,
    by_issuer: HashMap<Box<[u8]>, Vec<usize>>,
}

/// What the lists say of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is not revoked.
    Good {
        /// The first `nextUpdate` of the lists that say so.
        until: Timestamp,
    },
    /// It is revoked.
    Revoked {
        /// The list's issuer.
        issuer: String,
        /// The list's file.
        file: Arc<str>,
    },
    /// The list that decides has expired.
    Expired {
        /// The list's issuer.
        issuer: String,
        /// The list's file.
        file: Arc<str>,
        /// When it expired.
        at: Timestamp,
    },
    /// No list decides.
    Unknown(Missing),
}

/// Why no list decides about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// None is of its issuer's name.
    Issuer,
    /// Those of its issuer's name are signed with another key.
    Key,
    /// Those of its issuer are for other distribution points.
    Partition {
        /// Those of the lists.
        lists: Vec<String>,
        /// Those of the certificate.
        certificate: Vec<String>,
    },
}

impl CrlStore {
    /// Keeps the newest list of each issuer and partition.
    pub fn new(loaded: Vec<Loaded>) -> (Self, Vec<Superseded>) {
        let mut groups: Vec<Vec<Loaded>> = Vec::new();
        let mut known: HashMap<_, usize> = HashMap::new();
        for mut one in loaded {
            one.keys.sort_unstable();
            one.keys.dedup();
            let scope = one.list.scope.raw.clone();
            let key = (one.list.canonical_issuer.clone(), one.keys.clone(), scope);
            match known.get(&key) {
                Some(&position) => groups[position].push(one),
                None => {
                    known.insert(key, groups.len());
                    groups.push(vec![one]);
                }
            }
        }
        let mut store = Self::default();
        let mut superseded = Vec::new();
        for group in groups {
            let (newest, ignored) = newest(group);
            let Some(by) = newest.first().cloned() else {
                continue;
            };
            superseded.extend(ignored.into_iter().map(|ignored| Superseded {
                is_younger_by_date: ignored.list.this_update > by.list.this_update,
                ignored,
                by: by.clone(),
            }));
            store.lists.extend(newest);
        }
        for (position, one) in store.lists.iter().enumerate() {
            let of_issuer = store.by_issuer.entry(one.list.canonical_issuer.clone());
            of_issuer.or_default().push(position);
        }
        (store, superseded)
    }

    /// Those of the same issuer (name and key) and partition as `other`.
    pub fn like<'a>(&'a self, other: &'a Loaded) -> impl Iterator<Item = &'a InForce> {
        self.of_name(&other.list.raw_issuer).filter(|one| {
            one.list.scope.raw == other.list.scope.raw
                && one.keys.iter().any(|key| other.keys.contains(key))
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// All that are in force.
    pub fn lists(&self) -> &[InForce] {
        &self.lists
    }

    pub(super) fn of_name(&self, issuer: &[u8]) -> impl Iterator<Item = &InForce> {
        let issuer = names::canonical(issuer);
        let positions = self.by_issuer.get(&*issuer).map_or(&[][..], Vec::as_slice);
        positions.iter().map(|&position| &self.lists[position])
    }

    /// Those of an issuer, by name (DER) and key (SubjectPublicKeyInfo).
    pub fn of_issuer<'a>(
        &'a self,
        name: &[u8],
        key: &'a [u8],
    ) -> impl Iterator<Item = &'a InForce> {
        self.of_name(name)
            .filter(move |one| one.keys.iter().any(|known| **known == *key))
    }

    /// What they say of a certificate whose issuer has the public key `issuer`
    /// (SubjectPublicKeyInfo), at `now`.
    pub fn status(
        &self,
        certificate: &X509Certificate<'_>,
        issuer: &[u8],
        role: Role,
        now: Timestamp,
    ) -> Status {
        let name = certificate.issuer().as_raw();
        let mut of_issuer = self.of_issuer(name, issuer).peekable();
        if of_issuer.peek().is_none() {
            return Status::Unknown(match self.of_name(name).next() {
                Some(_) => Missing::Key,
                None => Missing::Issuer,
            });
        }
        let points = Points::of(certificate);
        let covering: Vec<_> = of_issuer
            .filter_map(|one| match one.list.scope.covers(&points, role) {
                Coverage::None => None,
                coverage => Some((one, coverage)),
            })
            .collect();
        // A list that has expired still revokes what it names.
        let serial = certificate.raw_serial();
        if let Some((one, _)) = covering.iter().find(|(one, _)| one.list.names(serial)) {
            return Status::Revoked {
                issuer: one.list.issuer.clone(),
                file: Arc::clone(&one.file),
            };
        }
        let is_current = |one: &InForce| !one.list.has_expired(now);
        let decide: Vec<_> = covering
            .iter()
            .filter(|(_, coverage)| *coverage == Coverage::Full)
            .map(|(one, _)| *one)
            .collect();
        // One current list that covers the certificate is enough.
        let needed = match decide.iter().find(|one| is_current(one)) {
            Some(one) => vec![*one],
            None => decide,
        };
        if let Some(one) = needed.iter().find(|one| !is_current(one)) {
            return Status::Expired {
                issuer: one.list.issuer.clone(),
                file: Arc::clone(&one.file),
                at: one.list.next_update.unwrap_or(one.list.this_update),
            };
        }
        match needed.iter().filter_map(|one| one.list.next_update).min() {
            Some(until) => Status::Good { until },
            None => Status::Unknown(Missing::Partition {
                lists: self
                    .of_issuer(name, issuer)
                    .flat_map(|one| one.list.scope.uris.clone())
                    .collect(),
                certificate: points.into_uris(),
            }),
        }
    }
}

/// The newest of a group, and the others. Lists of the same age are in force together,
/// unless they are the same list.
fn newest(mut group: Vec<Loaded>) -> (Vec<Loaded>, Vec<Loaded>) {
    let by_number = group.iter().all(|one| one.list.number.is_some());
    let mut unique: Vec<Loaded> = Vec::new();
    for one in group.drain(..) {
        if !unique.iter().any(|other| other.list == one.list) {
            unique.push(one);
        }
    }
    let best = unique
        .iter()
        .max_by(|a, b| a.list.compare_age(&b.list, by_number))
        .cloned();
    unique.into_iter().partition(|one| {
        best.as_ref()
            .is_some_and(|best| one.list.compare_age(&best.list, by_number).is_eq())
    })
}
