//! `[[client]]`: who, what, how much.

use std::{collections::HashMap, num::NonZeroU32, ops::Range};

use leastconn::{Limits, RateLimit, ServerId, UpstreamId};

use super::{Resolver, suggest};
use crate::config::{
    cidr::IpNet,
    clients::{Clients, Packer},
    model::{Allow, Client},
    pattern::{CnPattern, DnsPattern},
    raw::{
        RawClient, RawClientDefaults, RawMatch, RawRateLimit,
        value::{At, OneOrMany},
    },
};

/// Where a client that could be read says what.
pub(super) struct Place {
    pub(super) r#match: Range<usize>,
    pub(super) allow: Range<usize>,
}

/// Whom a rule is about.
struct Match {
    cn: Vec<CnPattern>,
    dns: Vec<DnsPattern>,
    source: Vec<IpNet>,
}

impl Resolver<'_> {
    /// The clients, and the place of each.
    pub(super) fn all_clients(
        &mut self,
        raw: &[At<RawClient>],
        defaults: &RawClientDefaults,
    ) -> (Clients, Vec<Place>) {
        let default_rate = defaults
            .rate_limit
            .as_ref()
            .and_then(|at| self.rate_limit(at));
        let default_max = defaults.max_conns.as_ref().map(|at| at.value);
        let mut seen = HashMap::new();
        let mut clients = Packer::default();
        let mut places = Vec::new();
        for table in raw {
            let raw = &table.value;
            let name = raw.name.as_ref();
            let name = name.filter(|name| self.check_name("client", &name.value, &name.span));
            if let Some(name) = name {
                self.unique("client", name.value.as_str(), &name.span, &mut seen);
            }
            let matcher = raw.r#match.as_ref().and_then(|at| self.matcher(at));
            let allow = raw.allow.as_ref().and_then(|at| self.allow(at));
            let rate = match &raw.rate_limit {
                None => default_rate,
                Some(at) => self.rate_limit(at),
            };
            let max_conns = raw.max_conns.as_ref().map(|at| at.value).or(default_max);
            let (Some(name), Some(matcher), Some(allow)) = (name, matcher, allow) else {
                continue;
            };
            let Match { cn, dns, source } = matcher;
            clients.add(&Client {
                name: name.value.clone(),
                cn,
                dns,
                source,
                allow,
                limits: Limits {
                    rate,
                    max_conns: max_conns.and_then(NonZeroU32::new),
                },
            });
            places.push(Place {
                r#match: span_of(raw.r#match.as_ref()),
                allow: span_of(raw.allow.as_ref()),
            });
        }
        (clients.finish(), places)
    }

    /// `None`: something in it is wrong, so nothing can be said about whom it matches.
    fn matcher(&mut self, raw: &At<RawMatch>) -> Option<Match> {
        let RawMatch {
            cn, dns, source, ..
        } = &raw.value;
        let cn = self.patterns("cn", cn.as_ref(), CnPattern::parse);
        let dns = self.patterns("dns", dns.as_ref(), DnsPattern::parse);
        let source = self.patterns("source", source.as_ref(), IpNet::parse);
        let matcher = Match {
            cn: cn?,
            dns: dns?,
            source: source?,
        };
        if self.pruned(&raw.span) {
            return None;
        }
        if matcher.cn.is_empty() && matcher.dns.is_empty() && matcher.source.is_empty() {
            self.problems
                .error("`match` is empty: it would be everyone")
                .at(raw.span.clone())
                .help(
                    "say who it is: `cn` or `dns` of the certificate, or `source`; \
                     all addresses are `source = [\"0.0.0.0/0\", \"::/0\"]`",
                );
            return None;
        }
        Some(matcher)
    }

    pub(super) fn patterns<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        raw: Option<&At<OneOrMany>>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let Some(raw) = raw else {
            return Some(Vec::new());
        };
        let texts = raw.each();
        if texts.is_empty() && self.pruned(&raw.span) {
            return None;
        }
        if texts.is_empty() {
            self.problems
                .error(format!("`{key}` is an empty list: nobody would match"))
                .at(raw.span.clone());
            return None;
        }
        let mut all = Some(Vec::new());
        for text in texts {
            match parse(text.value) {
                Ok(pattern) => {
                    if let Some(all) = &mut all {
                        all.push(pattern);
                    }
                }
                Err(error) => {
                    self.problems
                        .error(format!("`{key}`: {error}"))
                        .at(text.span);
                    all = None;
                }
            }
        }
        all
    }

    fn allow(&mut self, raw: &At<OneOrMany>) -> Option<Vec<Allow>> {
        let texts = raw.each();
        if texts.is_empty() && !self.pruned(&raw.span) {
            self.problems
                .warning("`allow` is empty: the client will be refused everywhere")
                .at(raw.span.clone());
        }
        let mut all = Some(Vec::new());
        for text in texts {
            match (self.allowed(&text), &mut all) {
                (Some(allow), Some(list)) => list.push(allow),
                _ => all = None,
            }
        }
        all
    }

    fn allowed(&mut self, text: &At<&str>) -> Option<Allow> {
        let (upstream, server) = match text.value.split_once('/') {
            None => (text.value, None),
            Some((upstream, server)) => (upstream, Some(server)),
        };
        let upstream = self.upstream_named(upstream, &text.span)?;
        let server = match server {
            None => None,
            Some(server) => Some(self.server_named(&upstream, server, &text.span)?),
        };
        Some(Allow { upstream, server })
    }

    fn server_named(
        &mut self,
        upstream: &UpstreamId,
        name: &str,
        span: &Range<usize>,
    ) -> Option<ServerId> {
        let declared = self
            .upstreams
            .iter()
            .find(|declared| declared.name == upstream.as_str())?;
        if declared.servers.iter().any(|server| server == name) || declared.incomplete {
            return Some(ServerId::from(name));
        }
        let problem = self
            .problems
            .error(format!(
                "the upstream `{upstream}` has no server named `{name}`"
            ))
            .at(span.clone());
        suggest(problem, name, &declared.servers, "its servers are");
        None
    }

    fn rate_limit(&mut self, raw: &At<RawRateLimit>) -> Option<RateLimit> {
        let rate = raw.value.rate.as_ref()?;
        let burst = match &raw.value.burst {
            Some(burst) => NonZeroU32::new(burst.value)?,
            // Saturating, and 1 for what is not a number: `new` refuses that.
            None => NonZeroU32::new(rate.value.ceil() as u32).unwrap_or(NonZeroU32::MIN),
        };
        let limit = RateLimit::new(rate.value, burst);
        if limit.is_none() {
            let problem = self
                .problems
                .error(format!("`rate` cannot be {}", rate.value))
                .at(rate.span.clone())
                .note("it is the number of new connections a second, from 0.000001 to 1000000000");
            if rate.value == 0.0 {
                problem.help("to refuse a client, remove its table or empty its `allow`");
            }
        }
        limit
    }
}

fn span_of<T>(at: Option<&At<T>>) -> Range<usize> {
    at.map_or(0..0, |at| at.span.clone())
}
