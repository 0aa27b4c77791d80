//! What a client may do: rules, tried in order, the first that matches decides.
//!
//! The outcome is a [`Grant`], which nothing else can make. An upstream's
//! servers are reached only through a grant together with a [`Permit`], so a
//! path that skips authorization or the limits does not compile.
//!
//! Finding the rule must not cost more with many of them: rules that ask for
//! exact names are found by hash, and only those with wildcards or source
//! addresses alone are tried one by one.

use std::{collections::HashMap, sync::Arc};

use leastconn::{Candidates, ClientId, Limits, Permit, Pool, Reason, UpstreamId};

use crate::{
    config::{self, Client, Config, Exact, Granted},
    identity::{Certificate, Peer},
    upstream::Upstream,
};

/// All rules of one configuration.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Arc<Rule>>,
    /// Rules that can only match a certificate with this exact common name.
    by_cn: HashMap<String, Vec<usize>>,
    /// Rules that can only match a certificate with this exact DNS name.
    by_dns: HashMap<String, Vec<usize>>,
    /// All others.
    scanned: Vec<usize>,
}

/// One `[[client]]`, with the servers that it grants.
#[derive(Debug)]
pub struct Rule {
    client: Client,
    grants: HashMap<UpstreamId, (Arc<Upstream>, Candidates)>,
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
    rule: Arc<Rule>,
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
    pub fn limits(&self) -> &Limits {
        &self.rule.client.limits
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
pub struct Matched {
    rule: Arc<Rule>,
    identity: ClientId,
}

impl Matched {
    /// The rule's name.
    pub fn client(&self) -> &Arc<str> {
        &self.rule.client.name
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
            Some(upstream) => self.rule.grants.get(upstream),
            // The client's own `allow` decides, if it decides for one.
            None if self.rule.grants.len() == 1 => self.rule.grants.values().next(),
            None => None,
        };
        let Some((upstream, candidates)) = granted else {
            return Err(Denied::NotAllowed {
                client: Arc::clone(&self.rule.client.name),
                upstream: led_to.cloned(),
            });
        };
        Ok(Grant {
            rule: Arc::clone(&self.rule),
            identity: self.identity.clone(),
            upstream: Arc::clone(upstream),
            candidates: candidates.clone(),
        })
    }
}

impl Policy {
    /// The rules of a configuration whose upstreams are running.
    pub fn new(config: &Config, upstreams: &HashMap<UpstreamId, Arc<Upstream>>) -> Self {
        let mut policy = Self {
            rules: Vec::new(),
            by_cn: HashMap::new(),
            by_dns: HashMap::new(),
            scanned: Vec::new(),
        };
        for client in &config.clients {
            policy.index(client);
            policy.rules.push(Arc::new(Rule::new(client, upstreams)));
        }
        policy
    }

    fn index(&mut self, client: &Client) {
        let position = self.rules.len();
        match client.matcher.exact() {
            Some(Exact::Cn(names)) => {
                for name in names {
                    let rules = self.by_cn.entry(name.as_str().to_owned()).or_default();
                    rules.push(position);
                }
            }
            Some(Exact::Dns(names)) => {
                for name in names {
                    let rules = self.by_dns.entry(name.as_str().to_owned()).or_default();
                    rules.push(position);
                }
            }
            None => self.scanned.push(position),
        }
    }

    /// The first rule that matches the client.
    ///
    /// # Errors
    /// If none does.
    pub fn identify(&self, peer: &Peer) -> Result<Matched, Denied> {
        self.candidates(peer)
            .into_iter()
            .find_map(|position| {
                let rule = &self.rules[position];
                let identity = rule.matches(peer)?;
                Some(Matched {
                    rule: Arc::clone(rule),
                    identity,
                })
            })
            .ok_or(Denied::UnknownClient)
    }

    /// Positions of the rules that may match, in order.
    fn candidates(&self, peer: &Peer) -> Vec<usize> {
        let mut positions = self.scanned.clone();
        if let Some(Certificate { cn, dns, .. }) = &peer.certificate {
            let named = cn.iter().filter_map(|cn| self.by_cn.get(cn));
            let named = named.chain(dns.iter().filter_map(|dns| self.by_dns.get(dns)));
            positions.extend(named.flatten());
        }
        positions.sort_unstable();
        positions
    }
}

impl Rule {
    fn new(client: &Client, upstreams: &HashMap<UpstreamId, Arc<Upstream>>) -> Self {
        let grants = upstreams
            .iter()
            .filter_map(|(id, upstream)| {
                let candidates = match client.grants(id)? {
                    Granted::All => upstream.pool().all(),
                    Granted::Only(names) => {
                        upstream.pool().subset(|server| names.contains(server.id()))
                    }
                };
                Some((id.clone(), (Arc::clone(upstream), candidates)))
            })
            .collect();
        Self {
            client: client.clone(),
            grants,
        }
    }

    /// Whom the rule sees in the client, if it matches: named by the first key,
    /// of those that the rule has, in the order cn, dns, source.
    fn matches(&self, peer: &Peer) -> Option<ClientId> {
        let matcher = &self.client.matcher;
        let certificate = peer.certificate.as_ref();
        let mut identity = None;
        if !matcher.cn.is_empty() {
            let cn = certificate?.cn.as_deref()?;
            matcher.cn.iter().find(|pattern| pattern.matches(cn))?;
            identity = Some(ClientId::from(format!("cn:{cn}")));
        }
        if !matcher.dns.is_empty() {
            let names = &certificate?.dns;
            let name = names
                .iter()
                .find(|name| matcher.dns.iter().any(|pattern| pattern.matches(name)))?;
            identity.get_or_insert_with(|| ClientId::from(format!("dns:{name}")));
        }
        if !matcher.source.is_empty() {
            matcher
                .source
                .iter()
                .find(|net| net.contains(peer.source))?;
        }
        Some(identity.unwrap_or_else(|| peer.identity()))
    }
}

#[cfg(test)]
mod tests;
