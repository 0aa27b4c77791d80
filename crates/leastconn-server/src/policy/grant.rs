//! Determines the servers that a matching rule allows.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use leastconn::{ClientId, Limits, Permit, Pool, Selector, ServerId, UpstreamId};
use leastconn_config::{Clients, Granted, Rule, Target};
use leastconn_tls::certificate::Ambiguous;

use crate::{reason_code::ReasonCode, upstream::Upstream};

/// The servers that an `allow` list grants, by upstream.
pub(super) type GrantedServers = HashMap<UpstreamId, (Arc<Upstream>, Selector)>;

/// Selects the upstream for the connections of a listener.
#[derive(Clone, Debug)]
pub struct Routing {
    pub(super) routes: Vec<leastconn_config::Route>,
    pub(super) upstream: Option<Target>,
}

impl From<&leastconn_config::Listener> for Routing {
    fn from(listener: &leastconn_config::Listener) -> Self {
        Self {
            routes: listener.routes.clone(),
            upstream: listener.upstream.clone(),
        }
    }
}

impl Routing {
    /// The upstream of connections that no route matches.
    pub fn default(&self) -> Option<&UpstreamId> {
        self.upstream.as_ref().and_then(Target::upstream)
    }

    fn target(&self, sni: Option<&str>) -> Option<&Target> {
        sni.and_then(|name| self.routes.iter().find(|route| route.sni.matches(name)))
            .map(|route| &route.upstream)
            .or(self.upstream.as_ref())
    }
}

/// Why the client rules refuse a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no client rule matches")]
    UnknownClient,
    /// No rule matches, but a rule that has expired would have matched.
    #[error("no client rule matches: the rule of client `{client}` expired at {at}")]
    Expired {
        /// The first expired rule that would have matched.
        client: Arc<str>,
        at: Timestamp,
    },
    /// The matching rule allows no server of the listener's upstream.
    #[error("the rule of client `{client}` allows no server{}", of(.upstream.as_ref(), .allowed))]
    NotAllowed {
        client: Arc<str>,
        identity: ClientId,
        /// The upstream chosen by routing, if any.
        upstream: Option<UpstreamId>,
        /// Upstreams that the rule allows, in alphabetical order.
        allowed: Vec<UpstreamId>,
    },
    /// Routing leads to no upstream.
    #[error(
        "the listener refuses this connection: `upstream = false` applies to it, in a route or in \
         the listener"
    )]
    RefusedByRouting {
        client: Arc<str>,
        identity: ClientId,
    },
    /// A rule matches on a name that cannot be read from the certificate.
    #[error("{0}")]
    Ambiguous(Ambiguous),
    /// Routing chooses no upstream, but the rule allows several.
    #[error(
        "the rule of client `{client}` allows servers of {upstreams} upstreams, but no route \
         matches and the listener has no `upstream`"
    )]
    SeveralUpstreams {
        client: Arc<str>,
        identity: ClientId,
        /// How many upstreams the rule allows.
        upstreams: usize,
    },
}

/// The upstream without an allowed server, and the upstreams that the rule allows.
fn of(upstream: Option<&UpstreamId>, allowed: &[UpstreamId]) -> String {
    let Some(id) = upstream else {
        return ": its `allow` is empty".to_owned();
    };
    let allowed: Vec<_> = allowed.iter().map(|id| format!("`{id}`")).collect();
    let allowed = match &allowed[..] {
        [] => "its `allow` is empty".to_owned(),
        ids => format!("it allows only {}", ids.join(", ")),
    };
    format!(" of upstream `{id}`, to which the listener routes the connection: {allowed}")
}

impl Denied {
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::UnknownClient | Self::Expired { .. } => ReasonCode::UnknownClient,
            Self::Ambiguous(_) => ReasonCode::AmbiguousIdentity,
            Self::NotAllowed { .. }
            | Self::SeveralUpstreams { .. }
            | Self::RefusedByRouting { .. } => ReasonCode::NotAllowed,
        }
    }

    /// The rule that matched, and the client's identity under it.
    pub fn matched(&self) -> Option<(&str, &ClientId)> {
        match self {
            Self::NotAllowed {
                client, identity, ..
            }
            | Self::SeveralUpstreams {
                client, identity, ..
            }
            | Self::RefusedByRouting { client, identity } => Some((client, identity)),
            Self::UnknownClient | Self::Expired { .. } | Self::Ambiguous(_) => None,
        }
    }
}

/// A rule that matches a client.
#[derive(Clone, Debug)]
pub struct Matched<'a> {
    pub(super) clients: &'a Arc<Clients>,
    pub(super) rule: Rule<'a>,
    pub(super) granted: &'a GrantedServers,
    pub(super) identity: ClientId,
}

impl<'a> Matched<'a> {
    pub const fn rule(&self) -> &Rule<'a> {
        &self.rule
    }

    pub fn client(&self) -> &'a str {
        self.rule.name()
    }

    /// The client's identity under this rule. Limits apply to each identity.
    pub const fn identity(&self) -> &ClientId {
        &self.identity
    }

    /// The servers that the client may reach through a listener with this `routing`, if its
    /// ClientHello contained the server name `sni`.
    ///
    /// # Errors
    /// If the client may reach no server.
    pub fn grant(&self, routing: &Routing, sni: Option<&str>) -> Result<Grant, Denied> {
        let routed = match routing.target(sni) {
            Some(Target::Refuse) => {
                return Err(Denied::RefusedByRouting {
                    client: self.rule.name().into(),
                    identity: self.identity.clone(),
                });
            }
            target => target.and_then(Target::upstream),
        };
        let granted = match routed {
            Some(upstream) => self.granted.get(upstream),
            // If no route chooses an upstream, the rule's own `allow` decides, provided that it
            // names only one upstream.
            None if self.granted.len() > 1 => {
                return Err(Denied::SeveralUpstreams {
                    client: self.rule.name().into(),
                    identity: self.identity.clone(),
                    upstreams: self.granted.len(),
                });
            }
            None => self.granted.values().next(),
        };
        let Some((upstream, selector)) = granted else {
            return Err(Denied::NotAllowed {
                client: self.rule.name().into(),
                identity: self.identity.clone(),
                upstream: routed.cloned(),
                allowed: {
                    let mut allowed: Vec<_> = self.granted.keys().cloned().collect();
                    allowed.sort();
                    allowed
                },
            });
        };
        Ok(Grant {
            clients: Arc::clone(self.clients),
            rule: self.rule.number(),
            identity: self.identity.clone(),
            upstream: Arc::clone(upstream),
            selector: selector.clone(),
            valid_until: None,
        })
    }
}

/// Proof that a client was authorized. It contains the servers that the client may use, and the
/// client's limits.
///
/// Only [`Matched::grant`] creates a grant, and [`Self::servers`] also requires a [`Permit`], so
/// code that skips authorization or the limits does not compile.
#[derive(Clone, Debug)]
pub struct Grant {
    clients: Arc<Clients>,
    /// The number of the matching rule in `clients`.
    rule: usize,
    identity: ClientId,
    upstream: Arc<Upstream>,
    selector: Selector,
    valid_until: Option<i64>,
}

impl Grant {
    /// Sets the last second at which the client's chain is valid, as UNIX time.
    #[must_use]
    pub(crate) const fn with_valid_until(mut self, valid_until: Option<i64>) -> Self {
        self.valid_until = valid_until;
        self
    }

    /// The last second at which the client's chain is valid, as UNIX time; `None` if no certificate
    /// was required.
    pub const fn valid_until(&self) -> Option<i64> {
        self.valid_until
    }

    /// The name of the matching rule.
    pub fn client(&self) -> &str {
        self.rule().name()
    }

    /// The client's identity. Limits apply to each identity.
    pub const fn identity(&self) -> &ClientId {
        &self.identity
    }

    pub fn limits(&self) -> &Limits {
        self.rule().limits()
    }

    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The pool, and the servers in it that the client may use. The permit proves that the client
    /// is within its limits.
    pub fn servers(&self, _permit: &Permit) -> (&Pool, &Selector) {
        (self.upstream.pool(), &self.selector)
    }

    /// Whether the grant also covers an open connection to `server` of `upstream`. A server
    /// that was removed from the upstream stays allowed for rules that allow the whole
    /// upstream.
    pub fn permits(&self, upstream: &UpstreamId, server: Option<&ServerId>) -> bool {
        let granted = Granted::of(self.rule().allow(), upstream);
        self.upstream.pool().id() == upstream
            && match (granted, server) {
                (Some(Granted::Only(names)), Some(server)) => names.contains(server),
                (granted, _) => granted.is_some(),
            }
    }

    fn rule(&self) -> Rule<'_> {
        self.clients.rule(self.rule)
    }
}
