//! What clients have shown to prove who they are: every certificate chain once,
//! for as long as a connection is open that has shown it.
//!
//! It is kept to judge open connections again, when authorities, lists or rules
//! change and when it runs out. A client that connects again and again is one
//! entry, and its certificate is parsed once.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, MutexGuard};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{
    crl::{RevocationList, without_zeros},
    identity::{Ambiguous, Certificate},
    names,
};

/// Enough that workers rarely meet.
const SHARDS: usize = 16;

/// SHA-256 of a chain.
pub type Fingerprint = [u8; 32];

/// All chains that open connections have shown.
#[derive(Debug, Default)]
pub struct Chains([Mutex<Shard>; SHARDS]);

type Shard = HashMap<Fingerprint, Weak<Presented>>;

/// A chain that a client has shown: verified when it was, and its own.
#[derive(Debug)]
pub struct Presented {
    /// What the leaf says of its owner.
    pub certificate: Arc<Certificate>,
    /// The leaf, then what came with it.
    chain: Box<[CertificateDer<'static>]>,
    fingerprint: Fingerprint,
    /// Issuer and serial number of each, hashed: what revocation lists name.
    names: Box<[u64]>,
    table: Weak<Chains>,
}

/// A chain whose leaf does not say one thing about its owner.
#[derive(Debug)]
pub struct Unread {
    /// Why.
    pub why: Ambiguous,
    /// The chain, given back.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Chains {
    /// The entry for a chain, which is not empty.
    ///
    /// # Errors
    /// If its leaf is ambiguous.
    pub fn intern(
        self: &Arc<Self>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Arc<Presented>, Unread> {
        let fingerprint = fingerprint(&chain);
        if let Some(known) = self.known(&fingerprint) {
            return Ok(known);
        }
        let presented = Arc::new(Presented::read(chain, fingerprint, self)?);
        let mut shard = self.shard(&fingerprint);
        // Another connection may have been faster. Ours is then dropped, and looks
        // at the shard for it: after this lock is given back.
        if let Some(known) = shard.get(&fingerprint).and_then(Weak::upgrade) {
            drop(shard);
            return Ok(known);
        }
        shard.insert(fingerprint, Arc::downgrade(&presented));
        drop(shard);
        Ok(presented)
    }

    /// How many chains are kept.
    pub fn len(&self) -> usize {
        let shards = self.0.iter();
        shards.map(|shard| lock(shard).len()).sum()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn known(&self, fingerprint: &Fingerprint) -> Option<Arc<Presented>> {
        self.shard(fingerprint)
            .get(fingerprint)
            .and_then(Weak::upgrade)
    }

    fn shard(&self, fingerprint: &Fingerprint) -> MutexGuard<'_, Shard> {
        lock(&self.0[usize::from(fingerprint[0]) % SHARDS])
    }
}

/// Nothing that holds the lock leaves it half changed.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock()
}

impl Presented {
    fn read(
        chain: Vec<CertificateDer<'static>>,
        fingerprint: Fingerprint,
        table: &Arc<Chains>,
    ) -> Result<Self, Unread> {
        let leaf = chain.first().ok_or(Ambiguous::Unreadable);
        let certificate = match leaf.and_then(|leaf| Certificate::from_der(leaf)) {
            Ok(certificate) => certificate,
            Err(why) => return Err(Unread { why, chain }),
        };
        let mut names = Vec::new();
        for der in &chain {
            // What does not parse does not count for the path either.
            if let Ok((_, certificate)) = X509Certificate::from_der(der) {
                names.push(name(
                    certificate.issuer().as_raw(),
                    certificate.raw_serial(),
                ));
            }
        }
        Ok(Self {
            certificate: Arc::new(certificate),
            chain: chain.into(),
            fingerprint,
            names: names.into(),
            table: Arc::downgrade(table),
        })
    }

    /// The leaf, then what came with it.
    pub const fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// SHA-256 over all of it.
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The client's own certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Whether one of its certificates is among those `named`.
    pub fn is_among(&self, named: &Named) -> bool {
        self.names.iter().any(|name| named.0.contains(name))
    }
}

impl Drop for Presented {
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else {
            return;
        };
        let mut shard = table.shard(&self.fingerprint);
        // A later one may have taken its place already.
        if let Some(entry) = shard.get(&self.fingerprint)
            && entry.strong_count() == 0
        {
            shard.remove(&self.fingerprint);
            if shard.capacity() > 4 * shard.len().max(64) {
                shard.shrink_to_fit();
            }
        }
    }
}

/// Of a leaf and what comes with it.
fn fingerprint(chain: &[CertificateDer<'_>]) -> Fingerprint {
    match chain {
        [] => [0; 32],
        [end_entity, intermediates @ ..] => fingerprint_of(end_entity, intermediates),
    }
}

pub(crate) fn fingerprint_of(
    end_entity: &[u8],
    intermediates: &[CertificateDer<'_>],
) -> Fingerprint {
    use aws_lc_rs::digest::{Context, SHA256};
    let mut context = Context::new(&SHA256);
    for der in intermediates.iter().map(|der| &**der).chain([end_entity]) {
        // With its length, so that no two chains read the same.
        context.update(&(der.len() as u64).to_be_bytes());
        context.update(der);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

/// All certificates that revocation lists name.
///
/// By a hash of issuer and serial number, for two uses: whom to verify first, which
/// an accident cannot harm, and who is cut off that has no list of its own any
/// more, where one in 2^64 is fewer than there are faults of memory.
#[derive(Debug, Default)]
pub struct Named(HashSet<u64, BuildHasherDefault<DefaultHasher>>);

impl Named {
    /// Adds those of one list.
    pub fn add(&mut self, list: &RevocationList) {
        let issuer = list.raw_issuer();
        self.0
            .extend(list.serials().map(|serial| name(issuer, serial)));
    }
}

/// `serial` may have leading zeros in a certificate; in lists they were taken off.
fn name(issuer: &[u8], serial: &[u8]) -> u64 {
    let serial = without_zeros(serial);
    BuildHasherDefault::<DefaultHasher>::default().hash_one((names::canonical(issuer), serial))
}

#[cfg(test)]
mod tests;
