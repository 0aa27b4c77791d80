//! What a client may do: rules, tried in order, the first that matches decides.
//!
//! The outcome is a [`Grant`], which nothing else can make. An upstream's
//! servers are reached only through a grant together with a [`Permit`], so a
//! path that skips authorization or the limits does not compile.
//!
//! Finding the rule must not cost more with many of them: only those are tried that
//! [`Clients`] finds near what is known of the client.
//!
//! A rule in shadow mode decides nothing, and the next are tried. A rule that has
//! expired matches nobody. Time is an argument.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use leastconn::{Candidates, ClientId, Limits, Permit, Pool, Reason, ServerId, UpstreamId};

use crate::{
    config::{self, Allow, Clients, Config, Granted, Key, Mode, Rule},
    identity::{Ambiguous, Peer, named_by},
    upstream::Upstream,
};

/// All rules of one configuration.
#[derive(Debug)]
pub struct Policy {
    clients: Arc<Clients>,
    /// What each of [`Clients::allows`] grants.
    reaches: Vec<Reach>,
    /// When rules expire, in order.
    expiries: Vec<Timestamp>,
    /// For each key that rules in force ask for, the first of them.
    first_with: BTreeMap<Key, usize>,
}

/// The servers that an `allow` grants.
type Reach = HashMap<UpstreamId, (Arc<Upstream>, Candidates)>;

/// Where a listener's connections go.
#[derive(Clone, Debug)]
pub struct Routing {
    routes: Vec<config::Route>,
    upstream: Option<UpstreamId>,
}

impl From<&config::Listener> for Routing {
    fn from(listener: &config::Listener) -> Self {
        Self {
            routes: listener.routes.clone(),
            upstream: listener.upstream.clone(),
        }
    }
}

impl Routing {
    /// Where connections go that no route takes.
    pub const fn default(&self) -> Option<&UpstreamId> {
        self.upstream.as_ref()
    }

    fn upstream(&self, sni: Option<&str>) -> Option<&UpstreamId> {
        sni.and_then(|name| self.routes.iter().find(|route| route.sni.matches(name)))
            .map(|route| &route.upstream)
            .or(self.upstream.as_ref())
    }
}

/// Proof that a client was authorized: for which servers, and under which limits.
#[derive(Clone, Debug)]
pub struct Grant {
    limits: Limits,
    identity: ClientId,
    upstream: Arc<Upstream>,
    candidates: Candidates,
}

impl Grant {
    /// Whose bucket and count it is.
    pub const fn identity(&self) -> &ClientId {
        &self.identity
    }

    /// The limits that the rule sets.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The servers, for a client that was also admitted.
    pub fn servers(&self, _admitted: &Permit) -> (&Pool, &Candidates) {
        (self.upstream.pool(), &self.candidates)
    }

    /// The upstream.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }
}

/// The rules say no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No rule matches.
    #[error("no client rule matches")]
    UnknownClient,
    /// No rule matches, and the rule of this name did until it expired.
    #[error("no client rule matches any more: the rule of client `{client}` expired at {at}")]
    Expired {
        /// The first such rule's name.
        client: Arc<str>,
        /// When it expired.
        at: Timestamp,
    },
    /// The rule of this name grants none of the servers that the listener leads to.
    #[error("the rule of client `{client}` allows no server{}", of(.upstream.as_ref()))]
    NotAllowed {
        /// The rule's name.
        client: Arc<str>,
        /// The upstream that the connection was led to, if to one.
        upstream: Option<UpstreamId>,
    },
    /// A name that an earlier rule asks for cannot be read.
    #[error("{0}")]
    Ambiguous(Ambiguous),
    /// The listener leads to no upstream, and the rule of this name to several.
    #[error(
        "the rule of client `{client}` allows servers of {upstreams} upstreams, and the \
         listener does not say of which: no route takes this connection, and it has no `upstream`"
    )]
    Undecided {
        /// The rule's name.
        client: Arc<str>,
        /// How many upstreams it may use.
        upstreams: usize,
    },
}

fn of(upstream: Option<&UpstreamId>) -> String {
    upstream.map_or_else(String::new, |id| format!(" of upstream `{id}`"))
}

impl Denied {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::UnknownClient | Self::Expired { .. } => Reason::UnknownClient,
            Self::Ambiguous(ambiguous) => ambiguous.reason(),
            Self::NotAllowed { .. } | Self::Undecided { .. } => Reason::NotAllowed,
        }
    }
}

/// A rule that matched, and whom it sees in the client.
#[derive(Clone, Debug)]
pub struct Matched<'a> {
    rule: Rule<'a>,
    reach: &'a Reach,
    identity: ClientId,
}

impl<'a> Matched<'a> {
    /// The rule.
    pub const fn rule(&self) -> &Rule<'a> {
        &self.rule
    }

    /// The rule's name.
    pub fn client(&self) -> &'a str {
        self.rule.name()
    }

    /// Whose bucket and count it is.
    pub const fn identity(&self) -> &ClientId {
        &self.identity
    }

    /// Which servers the client may reach on a listener with this `routing`,
    /// having asked for the server name `sni`.
    ///
    /// # Errors
    /// If none.
    pub fn grant(&self, routing: &Routing, sni: Option<&str>) -> Result<Grant, Denied> {
        let led_to = routing.upstream(sni);
        let granted = match led_to {
            Some(upstream) => self.reach.get(upstream),
            // The client's own `allow` decides, if it decides for one.
            None if self.reach.len() > 1 => {
                return Err(Denied::Undecided {
                    client: self.rule.name().into(),
                    upstreams: self.reach.len(),
                });
            }
            None => self.reach.values().next(),
        };
        let Some((upstream, candidates)) = granted else {
            return Err(Denied::NotAllowed {
                client: self.rule.name().into(),
                upstream: led_to.cloned(),
            });
        };
        Ok(Grant {
            limits: *self.rule.limits(),
            identity: self.identity.clone(),
            upstream: Arc::clone(upstream),
            candidates: candidates.clone(),
        })
    }
}

impl Matched<'_> {
    /// Whether the rule lets a connection be that goes to this server of this
    /// upstream, where `grant` is what it grants now. A server that the upstream
    /// has no longer is not forbidden to those who may use all of it.
    pub fn covers(&self, grant: &Grant, upstream: &UpstreamId, server: Option<&ServerId>) -> bool {
        let granted = Granted::of(self.rule.allow(), upstream);
        grant.upstream().pool().id() == upstream
            && match (granted, server) {
                (Some(Granted::Only(names)), Some(server)) => names.contains(server),
                (granted, _) => granted.is_some(),
            }
    }
}

impl Policy {
    /// The rules of a configuration whose upstreams are running.
    pub fn new(config: &Config, upstreams: &HashMap<UpstreamId, Arc<Upstream>>) -> Self {
        let clients = Arc::clone(&config.clients);
        let allows = clients.allows().iter();
        let reaches = allows.map(|allow| reach(allow, upstreams)).collect();
        let mut expiries: Vec<_> = clients.expiries().collect();
        expiries.sort_unstable();
        expiries.dedup();
        let mut first_with = BTreeMap::new();
        for (number, rule) in clients.iter().enumerate() {
            for key in Key::TEXTS {
                if rule.mode() == Mode::Enforce && rule.texts(key).len() > 0 {
                    first_with.entry(key).or_insert(number);
                }
            }
        }
        Self {
            first_with,
            clients,
            reaches,
            expiries,
        }
    }

    /// The first rule that matches the client at `now`, and decides.
    ///
    /// # Errors
    /// If none does.
    pub fn identify(&self, peer: &Peer, now: Timestamp) -> Result<Matched<'_>, Denied> {
        let mut expired = None;
        for position in self.candidates(peer) {
            match self.judge(position, peer, now) {
                Judged::Decides(matched) => {
                    self.is_readable_before(position, peer)?;
                    return Ok(matched);
                }
                Judged::Expired(at) => {
                    let decided = self.clients.rule(position).mode() == Mode::Enforce;
                    expired = expired.or(decided.then_some((position, at)));
                }
                Judged::Shadow(_) | Judged::Differs(_) => {}
            }
        }
        self.is_readable_before(self.clients.len(), peer)?;
        Err(match expired {
            None => Denied::UnknownClient,
            Some((position, at)) => Denied::Expired {
                client: self.clients.rule(position).name().into(),
                at,
            },
        })
    }

    /// Fails if a rule before number `position` asks for a name that the certificate has
    /// and that cannot be read: it might have matched.
    fn is_readable_before(&self, position: usize, peer: &Peer) -> Result<(), Denied> {
        let Some(certificate) = &peer.certificate else {
            return Ok(());
        };
        let asked = |key| {
            self.first_with
                .get(key)
                .is_some_and(|&first| first < position)
        };
        let mut unreadable = certificate.unreadable.iter();
        match unreadable.find(|(key, _)| asked(key)) {
            Some((_, why)) => Err(Denied::Ambiguous(*why)),
            None => Ok(()),
        }
    }

    /// The first rule that matches the client at `now`, if that is one in shadow
    /// mode: it would have decided.
    pub fn shadow(&self, peer: &Peer, now: Timestamp) -> Option<Matched<'_>> {
        for position in self.candidates(peer) {
            match self.judge(position, peer, now) {
                Judged::Shadow(matched) => return Some(matched),
                Judged::Decides(_) => return None,
                Judged::Expired(_) | Judged::Differs(_) => {}
            }
        }
        None
    }

    /// The nearest moment after `now` at which a rule expires, and what was decided
    /// before may have changed.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let passed = self.expiries.partition_point(|&expiry| expiry <= now);
        self.expiries.get(passed).copied()
    }

    /// The rules.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// What the rule of this number, from 0 on, says about a client at `now`, by
    /// itself.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn judge(&self, number: usize, peer: &Peer, now: Timestamp) -> Judged<'_> {
        let rule = self.clients.rule(number);
        let identity = match identity_of(&rule, peer) {
            Ok(identity) => identity,
            Err(key) => return Judged::Differs(key),
        };
        if let Some(expiry) = rule.expires().filter(|&expiry| expiry <= now) {
            return Judged::Expired(expiry);
        }
        let matched = Matched {
            rule,
            reach: &self.reaches[rule.allow_number()],
            identity,
        };
        match rule.mode() {
            Mode::Enforce => Judged::Decides(matched),
            Mode::Shadow => Judged::Shadow(matched),
        }
    }

    /// Positions of the rules that may match, in order.
    fn candidates(&self, peer: &Peer) -> impl Iterator<Item = usize> {
        let texts = |key: Key| {
            let shown = peer.certificate.as_deref();
            let texts = shown.map_or(&[][..], |shown| shown.texts(key));
            texts.iter().map(move |text| (key, text.as_str()))
        };
        let certificate = Key::TEXTS.into_iter().flat_map(texts);
        self.clients.may_match(certificate, peer.source)
    }
}

/// What a rule by itself says about a client.
#[derive(Clone, Debug)]
pub enum Judged<'a> {
    /// It matches, and decides.
    Decides(Matched<'a>),
    /// It matches, and decides nothing.
    Shadow(Matched<'a>),
    /// It would match, had it not expired then.
    Expired(Timestamp),
    /// It asks for something else under this key.
    Differs(Key),
}

fn reach(allow: &[Allow], upstreams: &HashMap<UpstreamId, Arc<Upstream>>) -> Reach {
    upstreams
        .iter()
        .filter_map(|(id, upstream)| {
            let candidates = match Granted::of(allow, id)? {
                Granted::All => upstream.pool().all(),
                Granted::Only(names) => {
                    upstream.pool().subset(|server| names.contains(server.id()))
                }
            };
            Some((id.clone(), (Arc::clone(upstream), candidates)))
        })
        .collect()
}

/// Whom the rule sees in the client, if it matches: what it is named by is the
/// first of the rule's keys among `cn`, `dns`, `uri` and `spki`. A rule that asks
/// for none of these is about many, and each has its own best name.
///
/// # Errors
/// With the first key that does not hold.
fn identity_of(rule: &Rule<'_>, peer: &Peer) -> Result<ClientId, Key> {
    let certificate = peer.certificate.as_deref();
    let mut name = None;
    for key in Key::TEXTS {
        let wanted = rule.texts(key);
        if wanted.len() == 0 {
            continue;
        }
        let texts = certificate.map_or(&[][..], |shown| shown.texts(key));
        let text = texts
            .iter()
            .find(|text| wanted.clone().any(|pattern| key.matches(pattern, text)))
            .ok_or(key)?;
        name.get_or_insert((key, text));
    }
    let sources = rule.sources();
    if !sources.is_empty() && !sources.iter().any(|net| net.contains(peer.source)) {
        return Err(Key::Source);
    }
    Ok(match name {
        Some((key @ (Key::Cn | Key::Dns | Key::Uri | Key::Spki), text)) => named_by(key, text),
        _ => peer.identity(),
    })
}

#[cfg(test)]
mod tests;
