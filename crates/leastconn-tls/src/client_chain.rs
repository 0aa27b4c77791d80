//! Interned client certificate chains. Each chain is stored once, as long as any connection that
//! presented it is open.
//!
//! Chains are kept to re-authorize open connections when CAs, CRLs or rules change, and
//! when a certificate expires. If a client has many connections, its certificate is parsed
//! only once.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, MutexGuard};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{
    certificate::{Ambiguous, Certificate},
    crl::{RevocationList, without_zeros},
    distinguished_name,
};

/// Number of shards: enough that worker threads rarely contend for the same shard.
const SHARDS: usize = 16;

/// SHA-256 of a chain, including the lengths of its certificates.
pub type Fingerprint = [u8; 32];

/// The chains of open connections.
#[derive(Debug, Default)]
pub struct ChainStore([Mutex<Shard>; SHARDS]);

type Shard = HashMap<Fingerprint, Weak<ClientChain>>;

/// A chain that a client presented in a handshake. The handshake verified it and proved
/// that the client has the private key.
#[derive(Debug)]
pub struct ClientChain {
    /// The names in the leaf certificate.
    pub certificate: Arc<Certificate>,
    /// The certificates, the leaf first.
    chain: Box<[CertificateDer<'static>]>,
    fingerprint: Fingerprint,
    /// The hash of issuer and serial number of each certificate, as in [`RevokedNames`].
    names: Box<[u64]>,
    store: Weak<ChainStore>,
}

/// A chain whose leaf certificate is ambiguous.
#[derive(Debug)]
pub struct Unreadable {
    pub error: Ambiguous,
    /// The chain, returned for diagnostics.
    pub chain: Vec<CertificateDer<'static>>,
}

impl ChainStore {
    /// Returns the stored chain equal to `chain`, or stores `chain`, which must not be
    /// empty.
    ///
    /// # Errors
    /// If the leaf certificate is ambiguous.
    pub fn intern(
        self: &Arc<Self>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Arc<ClientChain>, Unreadable> {
        let fingerprint = fingerprint(&chain);
        if let Some(known) = self.known(&fingerprint) {
            return Ok(known);
        }
        let presented = Arc::new(ClientChain::read(chain, fingerprint, self)?);
        let mut shard = self.shard(&fingerprint);
        // Another connection may have stored an equal chain since the look-up above. Unlock
        // the shard before `presented` is dropped, because its `Drop` locks the shard.
        if let Some(known) = shard.get(&fingerprint).and_then(Weak::upgrade) {
            drop(shard);
            return Ok(known);
        }
        shard.insert(fingerprint, Arc::downgrade(&presented));
        drop(shard);
        Ok(presented)
    }

    pub fn len(&self) -> usize {
        let shards = self.0.iter();
        shards.map(|shard| shard.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn known(&self, fingerprint: &Fingerprint) -> Option<Arc<ClientChain>> {
        self.shard(fingerprint)
            .get(fingerprint)
            .and_then(Weak::upgrade)
    }

    fn shard(&self, fingerprint: &Fingerprint) -> MutexGuard<'_, Shard> {
        self.0[usize::from(fingerprint[0]) % SHARDS].lock()
    }
}

impl ClientChain {
    fn read(
        chain: Vec<CertificateDer<'static>>,
        fingerprint: Fingerprint,
        store: &Arc<ChainStore>,
    ) -> Result<Self, Unreadable> {
        let leaf = chain.first().ok_or(Ambiguous::Unreadable);
        let certificate = match leaf.and_then(|leaf| Certificate::from_der(leaf)) {
            Ok(certificate) => certificate,
            Err(error) => return Err(Unreadable { error, chain }),
        };
        let mut names = Vec::new();
        for der in &chain {
            // Skip a certificate that does not parse: it cannot be part of the verified
            // path.
            if let Ok((_, certificate)) = X509Certificate::from_der(der) {
                let issuer = distinguished_name::canonical(certificate.issuer().as_raw());
                names.push(name(&issuer, certificate.raw_serial()));
            }
        }
        Ok(Self {
            certificate: Arc::new(certificate),
            chain: chain.into(),
            fingerprint,
            names: names.into(),
            store: Arc::downgrade(store),
        })
    }

    /// The certificates in handshake order, the leaf first.
    pub const fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The client's certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Whether one of the chain's certificates is in `revoked`.
    pub fn is_named_in(&self, revoked: &RevokedNames) -> bool {
        self.names.iter().any(|name| revoked.0.contains(name))
    }
}

impl Drop for ClientChain {
    fn drop(&mut self) {
        let Some(store) = self.store.upgrade() else {
            return;
        };
        let mut shard = store.shard(&self.fingerprint);
        // Remove the entry only if its chain is gone: an equal chain may have been stored
        // since the last reference to this chain was dropped.
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
        // Hash the lengths, too: they make the concatenation unambiguous.
        context.update(&(der.len() as u64).to_be_bytes());
        context.update(der);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

/// All certificates that a set of CRLs revokes, as 64-bit hashes of issuer and serial
/// number.
///
/// For most connections the set only decides the order of re-authorization, so a hash
/// collision is harmless. For connections of a removed listener, the set alone decides
/// whether the connection is closed. The probability of a collision is 2^-64 for each pair
/// of certificates.
#[derive(Debug, Default)]
pub struct RevokedNames(HashSet<u64, BuildHasherDefault<DefaultHasher>>);

impl RevokedNames {
    /// Adds the certificates that one CRL revokes.
    pub fn add(&mut self, list: &RevocationList) {
        let issuer = list.canonical_issuer();
        self.0
            .extend(list.serials().map(|serial| name(issuer, serial)));
    }
}

/// The hash of an issuer in canonical form and a serial number. Leading zeros of `serial` are
/// ignored, because parsed CRLs have none.
fn name(canonical_issuer: &[u8], serial: &[u8]) -> u64 {
    let serial = without_zeros(serial);
    BuildHasherDefault::<DefaultHasher>::default().hash_one((canonical_issuer, serial))
}

#[cfg(test)]
mod tests;
