//! The CRLs in force for one `tls` table, and the revocation status of certificates.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;

use crate::distinguished_name;

use super::{
    RevocationList,
    scope::{Coverage, Points, Role},
};

/// A CRL with its origin and the keys that signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub list: Arc<RevocationList>,
    /// Path of the CRL's file, as configured.
    pub file: Arc<str>,
    /// The public keys (SubjectPublicKeyInfo) that verify its signature: keys of authorities
    /// that have the name of the CRL's issuer.
    pub keys: Vec<Box<[u8]>>,
}

/// A CRL that is ignored because a newer CRL replaces it.
#[derive(Clone, Debug)]
pub struct Superseded {
    pub ignored: Loaded,
    /// The CRL that replaces it.
    pub by: Loaded,
    /// Whether the ignored CRL has the later `thisUpdate`. If so, its issuer may have
    /// restarted the numbering.
    pub is_younger_by_date: bool,
}

/// The CRLs in force: the newest CRL for each issuer (name and key) and partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CrlStore {
    lists: Vec<Loaded>,
    by_issuer: HashMap<Box<[u8]>, Vec<usize>>,
}

/// The revocation status of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Good {
        /// The earliest `nextUpdate` of the CRLs that were consulted.
        until: Timestamp,
    },
    Revoked {
        /// Issuer of the CRL.
        issuer: String,
        /// File of the CRL.
        file: Arc<str>,
    },
    /// The CRL that covers the certificate has expired.
    Expired {
        /// Issuer of the CRL.
        issuer: String,
        /// File of the CRL.
        file: Arc<str>,
        /// `nextUpdate` of the CRL.
        at: Timestamp,
    },
    /// No CRL covers the certificate.
    Unknown(Missing),
}

/// Why no CRL covers a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No CRL has the name of the certificate's issuer.
    Issuer,
    /// There are CRLs with the name of the certificate's issuer, but another key signed
    /// them.
    Key,
    /// The CRLs of the certificate's issuer are for other distribution points.
    Partition {
        /// Distribution points of the CRLs.
        lists: Vec<String>,
        /// Distribution points of the certificate.
        certificate: Vec<String>,
    },
}

impl CrlStore {
    /// Creates a store of the newest CRLs of each issuer and partition. Also returns the CRLs
    /// that are ignored.
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

    /// The CRLs in force with the same issuer (name and key) and partition as `other`.
    pub fn like<'a>(&'a self, other: &'a Loaded) -> impl Iterator<Item = &'a Loaded> {
        self.of_canonical_name(&other.list.canonical_issuer)
            .filter(|one| {
                one.list.scope.raw == other.list.scope.raw
                    && one.keys.iter().any(|key| other.keys.contains(key))
            })
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    pub fn lists(&self) -> &[Loaded] {
        &self.lists
    }

    pub(super) fn of_name(&self, issuer: &[u8]) -> impl Iterator<Item = &Loaded> + use<'_> {
        self.of_canonical_name(&distinguished_name::canonical(issuer))
    }

    fn of_canonical_name(&self, issuer: &[u8]) -> impl Iterator<Item = &Loaded> + use<'_> {
        let positions = self.by_issuer.get(issuer).map_or(&[][..], Vec::as_slice);
        positions.iter().map(|&position| &self.lists[position])
    }

    /// The CRLs of an issuer, by name (DER) and key (SubjectPublicKeyInfo).
    pub fn of_issuer<'a>(&'a self, name: &[u8], key: &'a [u8]) -> impl Iterator<Item = &'a Loaded> {
        self.of_name(name)
            .filter(move |one| one.keys.iter().any(|known| **known == *key))
    }

    /// The status at `now` of a certificate whose issuer has the public key `issuer`
    /// (SubjectPublicKeyInfo).
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
        // An expired CRL still revokes the certificates that it lists.
        let serial = certificate.raw_serial();
        if let Some((one, _)) = covering
            .iter()
            .find(|(one, _)| one.list.lists_serial(serial))
        {
            return Status::Revoked {
                issuer: one.list.issuer.clone(),
                file: Arc::clone(&one.file),
            };
        }
        let is_current = |one: &Loaded| !one.list.has_expired(now);
        let full: Vec<_> = covering
            .iter()
            .filter(|(_, coverage)| *coverage == Coverage::Full)
            .map(|(one, _)| *one)
            .collect();
        // One current CRL with full coverage is sufficient.
        let needed = match full.iter().find(|one| is_current(one)) {
            Some(one) => vec![*one],
            None => full,
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

/// Splits a group of CRLs into the newest CRLs and the rest. Different CRLs of the same age are in
/// force together.
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
