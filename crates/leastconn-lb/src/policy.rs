//! What a client may do: rules, tried in order, the first that matches decides.
//!
//! The outcome is a [`Grant`], which nothing else can make. An upstream's
//! servers are reached only through a grant together with a [`Permit`], so a
//! path that skips authorization or the limits does not compile.
//!
//! Finding the rule must not cost more with many of them: rules that ask for
//! exact names are found by binary search, and only those with wildcards or source
//! addresses alone are tried one by one.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use leastconn::{Candidates, ClientId, Limits, Permit, Pool, Reason, ServerId, UpstreamId};

use crate::{
    config::{self, Allow, Clients, Config, Exact, Granted, Rule},
    identity::{Certificate, Peer},
    upstream::Upstream,
};

/// All rules of one configuration. There may be very many of them: beside what
/// it has in [`Clients`], a rule has 8 bytes here for each of its names.
#[derive(Debug)]
pub struct Policy {
    clients: Arc<Clients>,
    /// What each of [`Clients::allows`] grants.
    reaches: Vec<Reach>,
    /// Rules that can only match a certificate with this exact common name, by
    /// the name and then in order.
    by_cn: Vec<Named>,
    /// The same for DNS names.
    by_dns: Vec<Named>,
    /// All others.
    scanned: Vec<usize>,
}

/// The servers that an `allow` grants.
type Reach = HashMap<UpstreamId, (Arc<Upstream>, Candidates)>;

/// One of the names that a rule can be found by.
#[derive(Clone, Copy, Debug)]
struct Named {
    rule: u32,
    name: u32,
}

impl Named {
    fn cn(self, clients: &Clients) -> Option<&str> {
        let mut names = clients.rule(self.rule as usize).cn();
        names.nth(self.name as usize).map(|cn| cn.text())
    }

    fn dns(self, clients: &Clients) -> Option<&str> {
        let mut names = clients.rule(self.rule as usize).dns();
        names.nth(self.name as usize).map(|dns| dns.text())
    }
}

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
    /// The rule of this name grants none of the servers that the listener leads to.
    #[error("the rule of client `{client}` allows no server of {}", .upstream.as_ref().map_or("exactly one upstream".to_owned(), |id| format!("upstream `{id}`")))]
    NotAllowed {
        /// The rule's name.
        client: Arc<str>,
        /// The upstream that the connection was led to, if to one.
        upstream: Option<UpstreamId>,
    },
}

impl Denied {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::UnknownClient => Reason::UnknownClient,
            Self::NotAllowed { .. } => Reason::NotAllowed,
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
            None if self.reach.len() == 1 => self.reach.values().next(),
            None => None,
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
        let (mut by_cn, mut by_dns, mut scanned) = (Vec::new(), Vec::new(), Vec::new());
        for (position, client) in clients.iter().enumerate() {
            // More rules than that are not to be had in a file.
            let rule = u32::try_from(position).unwrap_or(u32::MAX);
            let named = |names: usize| (0..names as u32).map(move |name| Named { rule, name });
            match client.exact() {
                Some(Exact::Cn) => by_cn.extend(named(client.cn().len())),
                Some(Exact::Dns) => by_dns.extend(named(client.dns().len())),
                None => scanned.push(position),
            }
        }
        // Stable: rules of the same name stay in order.
        by_cn.sort_by(|a, b| a.cn(&clients).cmp(&b.cn(&clients)));
        by_dns.sort_by(|a, b| a.dns(&clients).cmp(&b.dns(&clients)));
        by_cn.shrink_to_fit();
        by_dns.shrink_to_fit();
        Self {
            clients,
            reaches,
            by_cn,
            by_dns,
            scanned,
        }
    }

    /// The first rule that matches the client.
    ///
    /// # Errors
    /// If none does.
    pub fn identify(&self, peer: &Peer) -> Result<Matched<'_>, Denied> {
        self.candidates(peer)
            .into_iter()
            .find_map(|position| {
                let rule = self.clients.rule(position);
                Some(Matched {
                    rule,
                    reach: &self.reaches[rule.allow_number()],
                    identity: identity_of(&rule, peer)?,
                })
            })
            .ok_or(Denied::UnknownClient)
    }

    /// Positions of the rules that may match, in order.
    fn candidates(&self, peer: &Peer) -> Vec<usize> {
        let mut positions = self.scanned.clone();
        let clients = &self.clients;
        let mut add = |found: &[Named]| positions.extend(found.iter().map(|n| n.rule as usize));
        if let Some(Certificate { cn, dns, .. }) = peer.certificate.as_deref() {
            if let Some(cn) = cn {
                add(equal(&self.by_cn, |named| {
                    named.cn(clients).cmp(&Some(cn.as_str()))
                }));
            }
            for dns in dns {
                add(equal(&self.by_dns, |named| {
                    named.dns(clients).cmp(&Some(dns.as_str()))
                }));
            }
        }
        positions.sort_unstable();
        positions
    }
}

/// The part of sorted `names` that are equal to what they are compared with.
fn equal(names: &[Named], compare: impl Fn(&Named) -> Ordering) -> &[Named] {
    let start = names.partition_point(|named| compare(named) == Ordering::Less);
    let rest = &names[start..];
    &rest[..rest.partition_point(|named| compare(named) == Ordering::Equal)]
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

/// Whom the rule sees in the client, if it matches: named by the first key, of
/// those that the rule has, in the order cn, dns, source.
fn identity_of(rule: &Rule<'_>, peer: &Peer) -> Option<ClientId> {
    let certificate = peer.certificate.as_deref();
    let mut identity = None;
    if rule.cn().len() > 0 {
        let cn = certificate?.cn.as_deref()?;
        rule.cn().find(|pattern| pattern.matches(cn))?;
        identity = Some(ClientId::from(format!("cn:{cn}")));
    }
    if rule.dns().len() > 0 {
        let names = &certificate?.dns;
        let name = names
            .iter()
            .find(|name| rule.dns().any(|pattern| pattern.matches(name)))?;
        identity.get_or_insert_with(|| ClientId::from(format!("dns:{name}")));
    }
    let sources = rule.sources();
    if !sources.is_empty() {
        sources.iter().find(|net| net.contains(peer.source))?;
    }
    Some(identity.unwrap_or_else(|| peer.identity()))
}

#[cfg(test)]
mod tests;
