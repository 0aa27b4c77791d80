//! Whether a client may have its connection: the one function that decides when it
//! connects, and again whenever what that rests on has changed.
//!
//! Two things can miss each other: a connection that is admitted under one
//! configuration, and the next configuration, under which it would not be. Neither
//! waits for the other; instead each says first what it does and looks then what
//! the other one did. The connection writes what it was admitted with and for into
//! its [`Live`], under the lock of [`Live::known`], and looks then whether the
//! configuration is still the newest. A reload makes its configuration the newest
//! one, and looks then into every `Live`, under the same lock. Of two that take a
//! lock one is first. If it is the connection, the reload finds it and judges it.
//! If it is the reload, its lock was given back before the connection took it, so
//! the connection sees the configuration that was newest before that, and judges
//! itself again. The same holds for the server, which is known only once it is
//! connected to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use leastconn::Reason;

use crate::{
    client_chain::{Fingerprint, Named},
    config::OnExpiry,
    listener::Listener,
    policy::{Denied, Grant, Matched},
    registry::{Live, Registry},
    running::Current,
    seen::Seen,
    telemetry::metrics::Metrics,
    tls::ChainError,
};

/// Whether a client may begin, or go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It connects: all of its chain must be valid now, whatever `on_expiry` says.
    New,
    /// Its connection is open.
    Open {
        /// The last second in which its certificates are valid, since 1970.
        valid_until: Option<i64>,
    },
}

/// A client that is known.
#[derive(Debug)]
pub struct Judged<'a> {
    /// The rule that it falls under.
    pub matched: Matched<'a>,
    /// What it may reach, if anything.
    pub grant: Result<Grant, Denied>,
    /// The last second in which its certificates are valid, since 1970; `None`: it needs
    /// none.
    pub valid_until: Option<i64>,
}

/// Nobody is known in a client.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The listener asks for a certificate.
    #[error("the client has shown no certificate")]
    NoCertificate,
    /// The certificate is not, or no longer, good.
    #[error(transparent)]
    Certificate(ChainError),
    /// No rule is for this client.
    #[error(transparent)]
    Denied(#[from] Denied),
}

impl Refused {
    /// The stable code for a client that connects.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoCertificate => Reason::NoCertificate,
            Self::Certificate(error) => error.reason(),
            Self::Denied(denied) => denied.reason(),
        }
    }

    /// The stable code for a connection that was open.
    const fn ends_with(&self) -> Reason {
        match self {
            Self::Certificate(error) => error.reason(),
            Self::NoCertificate | Self::Denied(_) => Reason::PolicyChanged,
        }
    }
}

/// Who a client is and what it may do, under `listener` and the rules that are in
/// force with it.
///
/// # Errors
/// If it is nobody.
pub fn judge<'a>(
    listener: &'a Listener,
    seen: &Seen,
    standing: Standing,
    now: Timestamp,
) -> Result<Judged<'a>, Refused> {
    let valid_until = match (&listener.trust, &seen.presented) {
        (Some(trust), Some(presented)) => {
            let now = now.as_second();
            let verified = match standing {
                Standing::New => trust.verify(presented, now),
                Standing::Open { valid_until } => {
                    let kept_from = match listener.on_expiry {
                        OnExpiry::Keep => valid_until,
                        OnExpiry::Close => None,
                    };
                    trust.verify_open(presented, now, kept_from)
                }
            };
            Some(verified.map_err(Refused::Certificate)?)
        }
        (Some(_), None) => return Err(Refused::NoCertificate),
        (None, _) => None,
    };
    let peer = seen.by(listener);
    let matched = listener.state.policy.identify(&peer, now)?;
    let grant = matched.grant(&listener.routing, seen.sni.as_deref());
    Ok(Judged {
        matched,
        grant,
        valid_until,
    })
}

/// Judges an open connection under the `current` configuration, and says why it has
/// to end, if it has. One that is not admitted yet looks for itself when it is.
pub fn again(live: &Live, current: &Current, metrics: &Metrics, now: Timestamp) -> Option<Reason> {
    let mut known = live.known();
    // Under the lock: its rule is not to count it once more after it has ended.
    if live.has_ended() {
        return None;
    }
    if known.epoch? > current.state.epoch {
        // Somebody with a newer one was faster.
        return None;
    }
    // Kept for as long as it has connections.
    let listener = current.listener(&live.listener)?;
    let standing = Standing::Open {
        valid_until: known.valid_until,
    };
    let judged = match judge(listener, &known.seen, standing, now) {
        Ok(judged) => judged,
        Err(refused) => return Some(refused.ends_with()),
    };
    let (Ok(grant), Some(upstream)) = (&judged.grant, &known.upstream) else {
        return Some(Reason::PolicyChanged);
    };
    if !judged
        .matched
        .covers(grant, upstream, known.server.as_ref())
    {
        return Some(Reason::PolicyChanged);
    }
    known.called(judged.matched.client(), metrics);
    known.epoch = Some(current.state.epoch);
    known.valid_until = judged.valid_until;
    live.expires(listener, judged.valid_until);
    None
}

/// How many connections were ended, and why.
pub type Ended = BTreeMap<Reason, usize>;

/// Judges all open connections under the `current` configuration and ends those
/// that may not go on; those first that a list of `named` names.
///
/// Takes some 100 µs for each different chain. Not for workers.
pub fn all(registry: &Registry, current: &Current, metrics: &Metrics, named: &Named) -> Ended {
    let is_named = |live: &Live| {
        let known = live.known();
        let presented = known.seen.presented.as_ref();
        presented.is_some_and(|presented| presented.is_among(named))
    };
    let (first, others): (Vec<_>, Vec<_>) =
        registry.list().into_iter().partition(|live| is_named(live));
    let mut pass = Pass::default();
    for live in first {
        // A listener that is gone has no list of its own any more.
        if current.retired.contains_key(&live.listener) && live.known().epoch.is_some() {
            pass.end(&live, Reason::RevokedCertificate);
        } else {
            pass.judge(&live, current, metrics);
        }
    }
    for live in others {
        pass.judge(&live, current, metrics);
    }
    pass.ended
}

/// Judges some connections under the `current` configuration.
pub fn some(all: Vec<Arc<Live>>, current: &Current, metrics: &Metrics) -> Ended {
    let mut pass = Pass::default();
    for live in all {
        pass.judge(&live, current, metrics);
    }
    pass.ended
}

#[derive(Default)]
struct Pass {
    ended: Ended,
    /// Chains that a listener has found bad: many connections may have shown one.
    bad: HashMap<(Arc<str>, Fingerprint), Reason>,
}

impl Pass {
    fn judge(&mut self, live: &Live, current: &Current, metrics: &Metrics) {
        let shown = {
            let known = live.known();
            if known.epoch.is_some_and(|epoch| epoch > current.state.epoch) {
                return;
            }
            known.admitted_with()
        };
        let shown = shown.map(|fingerprint| (Arc::clone(&live.listener), fingerprint));
        if let Some(&reason) = shown.as_ref().and_then(|shown| self.bad.get(shown)) {
            return self.end(live, reason);
        }
        // Not once for all: a pass over many takes a moment.
        let Some(reason) = again(live, current, metrics, Timestamp::now()) else {
            return;
        };
        if reason != Reason::PolicyChanged
            && let Some(shown) = shown
        {
            self.bad.insert(shown, reason);
        }
        self.end(live, reason);
    }

    fn end(&mut self, live: &Live, reason: Reason) {
        if live.stop(reason) {
            *self.ended.entry(reason).or_default() += 1;
            tracing::debug!(connection = live.id, source = %live.source(), %reason, "judged again and ended");
        }
    }
}
