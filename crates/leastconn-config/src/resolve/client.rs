//! `[[client]]`: patterns, permissions and limits.

use std::{collections::HashMap, num::NonZeroU32, ops::Range};

use jiff::Timestamp;
use leastconn::{Limits, RateLimit, ServerId, UpstreamId};

use super::{Reported, Resolver, suggest};
use crate::{
    clients::{Allow, Client, Clients, MatchKey, Packer},
    keyword::Mode,
    raw::{
        RawClient, RawClientDefaults, RawMatch, RawRateLimit,
        value::{At, DateTime, OneOrMany},
    },
};

/// The positions of the keys of a valid client in the file.
pub(super) struct Place {
    pub(super) r#match: Range<usize>,
    pub(super) allow: Range<usize>,
}

impl Resolver<'_> {
    /// Resolves all client tables. Returns the valid clients and their positions.
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
            let expires = raw.expires.as_ref().map(|at| self.expires(at)).transpose();
            let (Some(name), Some(matcher), Some(allow), Ok(expires)) =
                (name, matcher, allow, expires)
            else {
                continue;
            };
            clients.add(&Client {
                name: name.value.clone(),
                allow,
                expires,
                rebalance: raw.rebalance.as_ref().is_some_and(|at| at.value),
                mode: raw.mode.as_ref().map_or_else(Mode::default, |at| at.value),
                limits: Limits::default()
                    .rate(rate)
                    .max_conns(max_conns.and_then(NonZeroU32::new)),
                ..matcher
            });
            places.push(Place {
                r#match: span_of(raw.r#match.as_ref()),
                allow: span_of(raw.allow.as_ref()),
            });
        }
        (clients.finish(), places)
    }

    /// Returns a client with only the patterns of `match`. Returns `None`, after reporting the
    /// problem, if `match` is invalid.
    fn matcher(&mut self, raw: &At<RawMatch>) -> Option<Client> {
        self.check_cn(raw.value.cn.as_ref());
        let mut client = Client::default();
        let mut is_valid = true;
        for key in MatchKey::all() {
            let values = raw.value.get(key).as_ref();
            let add = |value: &str| client.require(key, value);
            is_valid &= self.patterns(key.as_str(), values, add).is_some();
        }
        if !is_valid {
            return None;
        }
        if self.pruned(&raw.span) {
            return None;
        }
        if client.matches_all() {
            self.problems
                .error("`match` is empty: it would match all clients")
                .at(raw.span.clone())
                .help(
                    "add `cn`, `dns` or `uri` of the certificate, or `source`; to match all \
                    addresses, write `source = [\"0.0.0.0/0\", \"::/0\"]`",
                );
            return None;
        }
        Some(client)
    }

    /// Warns about common names that look like regular expressions or distinguished names, which
    /// are compared literally.
    fn check_cn(&mut self, raw: Option<&At<OneOrMany>>) {
        for text in raw.into_iter().flat_map(At::each) {
            let value = text.value;
            // A label is `*` as a whole in a pattern.
            let is_odd = |label: &str| label.is_empty() || (label.contains('*') && label != "*");
            let repeats = value.contains(".*") && value.split('.').any(is_odd);
            let is_dn = value.split(',').all(|part| part.contains('=')) && value.contains("CN=");
            let (says, help) = if value == "*" {
                (
                    "matches only names of one label, without a dot",
                    "`*` matches one label; `issuer_cn` matches all certificates of a CA"
                        .to_owned(),
                )
            } else if is_dn {
                let mut parts = value.split(',');
                let cn = parts.find_map(|part| part.trim().strip_prefix("CN="));
                let cn = cn.unwrap_or_default();
                (
                    "looks like a distinguished name: only the common name is compared",
                    format!("write `cn = {cn:?}`"),
                )
            } else if value.contains(['^', '$', '\\', '(', '|', '+', '?']) || repeats {
                (
                    "looks like a regular expression: it is compared literally",
                    "`*` matches one whole label, as in \"*.example.com\"".to_owned(),
                )
            } else {
                continue;
            };
            self.problems
                .warning(format!("`cn`: {value:?} {says}"))
                .at(text.span)
                .help(help);
        }
    }

    /// Converts `expires`. The value must have an offset from UTC, so that it does not
    /// depend on the time zone of the machine.
    fn expires(&mut self, raw: &At<DateTime>) -> Result<Timestamp, Reported> {
        let written = raw.value.0;
        let text = written.to_string();
        if written.date.is_none() || written.time.is_none() || written.offset.is_none() {
            let moment = match (written.date, written.time) {
                (Some(date), None) => format!("{date}T00:00:00Z"),
                (Some(date), Some(time)) => format!("{date}T{time}Z"),
                (None, _) => "2027-01-31T00:00:00Z".to_owned(),
            };
            self.problems
                .error(format!(
                    "`expires`: {text} has no offset from UTC, so it is not a definite time"
                ))
                .at(raw.span.clone())
                .help(format!(
                    "write `{moment}`, or an offset such as `+02:00` instead of `Z`"
                ));
            return Err(Reported);
        }
        let moment = match text.parse::<Timestamp>() {
            Ok(moment) => moment,
            Err(error) => {
                self.problems
                    .error(format!("`expires`: {error}"))
                    .at(raw.span.clone());
                return Err(Reported);
            }
        };
        if moment <= self.surroundings.now {
            self.problems
                .warning(format!(
                    "the rule expired at {moment}: it matches no client"
                ))
                .at(raw.span.clone())
                .help("remove the client, or set a later time");
        }
        Ok(moment)
    }

    pub(super) fn patterns<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        raw: Option<&At<OneOrMany>>,
        mut parse: impl FnMut(&str) -> Result<T, E>,
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
                .error(format!(
                    "`{key}` is an empty list: it would match no client"
                ))
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
        let &number = self.upstream_numbers.get(upstream.as_str())?;
        let declared = &self.upstreams[number];
        if declared.server_names.contains(name) || declared.incomplete {
            return Some(ServerId::from(name));
        }
        let many = self.problems.are_many();
        let problem = self
            .problems
            .error(format!(
                "the upstream `{upstream}` has no server named `{name}`"
            ))
            .at(span.clone());
        // Suggesting a name is expensive, because it compares all names.
        if !many {
            suggest(problem, name, &declared.servers, "its servers are");
        }
        None
    }

    fn rate_limit(&mut self, raw: &At<RawRateLimit>) -> Option<RateLimit> {
        let RawRateLimit { rate, burst } = &raw.value;
        let to_refuse = "to refuse a client, remove its table or set `allow = []`";
        self.rate(rate.as_ref()?, burst.as_ref(), Some(to_refuse))
    }

    /// Converts a rate and its burst. `to_refuse` is the help text for a rate of 0.
    pub(super) fn rate(
        &mut self,
        rate: &At<f64>,
        burst: Option<&At<u32>>,
        to_refuse: Option<&str>,
    ) -> Option<RateLimit> {
        let burst = match burst {
            Some(burst) => NonZeroU32::new(burst.value)?,
            // The cast saturates. NaN results in a burst of 1 here, and `RateLimit::new`
            // rejects the NaN.
            None => NonZeroU32::new(rate.value.ceil() as u32).unwrap_or(NonZeroU32::MIN),
        };
        let limit = RateLimit::new(rate.value, burst);
        if limit.is_none() {
            let problem = self
                .problems
                .error(format!("`rate` cannot be {}", rate.value))
                .at(rate.span.clone())
                .note(
                    "it is the number of new connections per second, from 0.000001 to 1000000000",
                );
            if let Some(help) = to_refuse.filter(|_| rate.value == 0.0) {
                problem.help(help);
            }
        }
        limit
    }
}

fn span_of<T>(at: Option<&At<T>>) -> Range<usize> {
    at.map_or(0..0, |at| at.span.clone())
}
