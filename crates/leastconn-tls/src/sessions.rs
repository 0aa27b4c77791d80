//! Sessions that clients may resume, and for how long.
//!
//! What a resumed handshake leaves out is the certificate and `CertificateVerify`:
//! that the client has the key was proven when the session was born, and that it
//! has the session's secret is proven now. rustls hands the chain of then back
//! without another look at it. So everything that is still to be judged is judged
//! here, before rustls learns that there is such a session: its age since it was
//! born, and the chain, by the listener's verifier, as it would be if it were shown
//! today. Where the answer is no, there is no such session, and the client has to
//! show a certificate, which ends as it ends without a session.
//!
//! A session is known to the [`Sessions`] of one listener in one configuration and
//! to nobody else: whatever changes, nothing of it is taken along. What is kept is
//! bounded by number and by bytes, the oldest goes first. In TLS 1.3 a session is
//! good for one connection, which gets a new one of the same age.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use rustls::{
    CommonState, HandshakeKind, ServerConfig,
    pki_types::{CertificateDer, UnixTime},
    server::StoresServerSessions,
};

use super::verifier::CachingVerifier;

/// Sessions that are kept.
const CAPACITY: usize = 8192;

/// And what they hold, in bytes: chains, most of all.
const CAPACITY_BYTES: usize = 32 << 20;

/// Tickets for each connection. A client that opens many connections at a time
/// gets as many.
const TICKETS: usize = 1;

/// What sessions are called: drawn at random by rustls, in both versions.
type Key = [u8; 32];

/// What was proven by the handshake that a session comes from.
struct Proof {
    /// When that began.
    born: Instant,
    /// The chain that the client has shown; empty where none is asked for.
    chain: Vec<CertificateDer<'static>>,
}

/// The time, to measure ages by and to look up in certificates.
#[derive(Clone, Copy)]
struct Now {
    instant: Instant,
    time: UnixTime,
}

impl Now {
    fn read() -> Self {
        Self {
            instant: leastconn::net::now(),
            time: UnixTime::now(),
        }
    }
}

struct Session {
    /// rustls' own, with the secret in it.
    value: Vec<u8>,
    proof: Arc<Proof>,
}

impl Session {
    fn size(&self) -> usize {
        let chain: usize = self.proof.chain.iter().map(|der| der.len()).sum();
        self.value.len() + chain
    }
}

#[derive(Default)]
struct Kept {
    sessions: HashMap<Key, Session>,
    /// As they came. Those that were resumed are still in here.
    order: VecDeque<(Key, Instant)>,
    bytes: usize,
}

impl Kept {
    fn remove(&mut self, key: &Key) -> Option<Session> {
        let session = self.sessions.remove(key)?;
        self.bytes -= session.size();
        Some(session)
    }

    fn insert(&mut self, key: Key, session: Session, now: Instant, lifetime: Duration) {
        self.remove(&key);
        self.bytes += session.size();
        self.sessions.insert(key, session);
        self.order.push_back((key, now));
        while let Some((oldest, came)) = self.order.front().copied() {
            let full = self.order.len() > CAPACITY || self.bytes > CAPACITY_BYTES;
            let gone = !self.sessions.contains_key(&oldest)
                // None is older than its place in here says, at least.
                || now.saturating_duration_since(came) >= lifetime;
            if !full && !gone {
                break;
            }
            self.order.pop_front();
            self.remove(&oldest);
        }
    }
}

/// The sessions of one listener in one configuration.
pub(super) struct Sessions {
    verifier: Option<Arc<CachingVerifier>>,
    lifetime: Duration,
    clock: fn() -> Now,
    kept: Mutex<Kept>,
}

/// Without what is secret.
impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl Sessions {
    /// Those that `verifier` lets go on, for at most `lifetime` after they were born.
    pub(super) fn new(verifier: Option<Arc<CachingVerifier>>, lifetime: Duration) -> Self {
        Self {
            verifier,
            lifetime,
            clock: Now::read,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }

    /// The session, if it may go on now. `once`: it is gone then.
    fn find(&self, key: &[u8], once: bool) -> Option<(Vec<u8>, Arc<Proof>)> {
        let key: Key = key.try_into().ok()?;
        let now = (self.clock)();
        let (value, proof) = {
            let mut kept = self.kept();
            if once {
                let session = kept.remove(&key)?;
                (session.value, session.proof)
            } else {
                let session = kept.sessions.get(&key)?;
                (session.value.clone(), Arc::clone(&session.proof))
            }
        };
        // Not under the lock: verifying may take some time.
        let young = now.instant.saturating_duration_since(proof.born) < self.lifetime;
        (young && self.is_good(&proof.chain, now.time)).then_some((value, proof))
    }

    fn is_good(&self, chain: &[CertificateDer<'_>], time: UnixTime) -> bool {
        match &self.verifier {
            Some(verifier) => verifier.accepts(chain, time),
            None => chain.is_empty(),
        }
    }

    /// The `config` of one connection, with a storage of its own that knows what
    /// this connection resumes.
    pub(super) fn visit(self: &Arc<Self>, config: &ServerConfig) -> (ServerConfig, Arc<Visit>) {
        let visit = Arc::new(Visit {
            sessions: Arc::clone(self),
            began: (self.clock)().instant,
            state: Mutex::default(),
        });
        let mut config = config.clone();
        config.session_storage = Arc::clone(&visit) as Arc<dyn StoresServerSessions>;
        config.send_tls13_tickets = TICKETS;
        config.max_tls13_tickets = TICKETS;
        (config, visit)
    }
}

/// One connection's dealings with the sessions.
pub(super) struct Visit {
    sessions: Arc<Sessions>,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the session that rustls was given last: the one that it resumes, if it
    /// does.
    found: Option<Arc<Proof>>,
    /// New ones, which nobody can resume until the handshake is over.
    made: Vec<(Key, Vec<u8>)>,
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit").finish_non_exhaustive()
    }
}

impl Visit {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn look_up(&self, key: &[u8], once: bool) -> Option<Vec<u8>> {
        let (value, proof) = self.sessions.find(key, once)?;
        self.state().found = Some(proof);
        Some(value)
    }

    /// The handshake is over: what it made may be resumed from now on, and is as
    /// old as what it comes from.
    pub(super) fn over(&self, session: &CommonState) {
        let mut state = self.state();
        let made = std::mem::take(&mut state.made);
        if made.is_empty() {
            return;
        }
        let proof = match session.handshake_kind() {
            Some(HandshakeKind::Resumed) => state.found.take(),
            _ => Some(Arc::new(Proof {
                born: self.began,
                chain: session
                    .peer_certificates()
                    .unwrap_or_default()
                    .iter()
                    .map(|der| der.clone().into_owned())
                    .collect(),
            })),
        };
        drop(state);
        let Some(proof) = proof else { return };
        let now = (self.sessions.clock)().instant;
        let mut kept = self.sessions.kept();
        for (key, value) in made {
            let proof = Arc::clone(&proof);
            kept.insert(key, Session { value, proof }, now, self.sessions.lifetime);
        }
    }
}

impl StoresServerSessions for Visit {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let Ok(key) = Key::try_from(key) else {
            return false;
        };
        self.state().made.push((key, value));
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.look_up(key, false)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.look_up(key, true)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
