//! `[[upstream]]` and its servers.

use std::{collections::HashMap, num::NonZeroU32, ops::Range, time::Duration};

use leastconn::health::Ratio;
use leastconn::{
    Address, AddressError, Balance, PanicPolicy, QueuePolicy, ServerId, ServerSpec, UpstreamId,
    Weight,
};

use super::{AddressUse, Declared, Resolver, SourceUse, Zero};
use crate::{
    defaults,
    model::{Rebalance, ServerSource, Upstream},
    raw::{
        self, ProxyProtocolOut, RawHealthCheck, RawRebalance, RawServer, RawUpstream, ServerEntry,
        value::At,
    },
    tls,
};
use leastconn_proxy_protocol::Version;

impl Resolver<'_> {
    pub(super) fn all_upstreams(&mut self, raw: &[At<RawUpstream>]) -> Vec<Upstream> {
        let mut seen = HashMap::new();
        let mut upstreams = Vec::new();
        for table in raw {
            let name = self.name("upstream", table.value.name.as_ref());
            let id = name.as_ref().map(|name| UpstreamId::from(&*name.value));
            let (servers, sources) = self.servers(table, id.as_ref());
            self.declare(table, &servers, !sources.is_empty(), &mut seen);
            let upstream = self.upstream(&table.value, servers, sources);
            self.check_mysql(&table.value, &upstream);
            self.check_agent_ports(&table.value, &upstream);
            upstreams.extend(id.map(|id| Upstream { id, ..upstream }));
        }
        upstreams
    }

    /// Registers the upstream, so that references to its name are valid even if the
    /// upstream itself is invalid.
    fn declare(
        &mut self,
        table: &At<RawUpstream>,
        servers: &[ServerSpec],
        has_sources: bool,
        seen: &mut HashMap<String, Range<usize>>,
    ) {
        let Some(At { value: name, span }) = &table.value.name else {
            self.nameless_upstream = true;
            return;
        };
        if !self.unique("upstream", name.to_owned(), span, seen) {
            return;
        }
        let list = table.value.servers.as_ref();
        self.upstream_numbers
            .insert(name.clone(), self.upstreams.len());
        self.upstreams.push(Declared {
            name: name.clone(),
            span: span.clone(),
            servers: servers.iter().map(|s| s.id.to_string()).collect(),
            server_names: servers.iter().map(|s| s.id.to_string()).collect(),
            // The names of discovered servers are unknown before the look-up.
            incomplete: has_sources
                || list
                    .is_none_or(|list| servers.len() < list.value.len() || self.pruned(&list.span)),
            used: false,
        });
    }

    fn upstream(
        &mut self,
        raw: &RawUpstream,
        servers: Vec<ServerSpec>,
        sources: Vec<ServerSource>,
    ) -> Upstream {
        let discovery = self.discovery(&raw.discovery, !sources.is_empty());
        let tls = raw
            .tls
            .as_ref()
            .and_then(|tls| tls::upstream::load(tls, &servers, self.surroundings, self.problems));
        self.check_names_of_discovered(raw, &sources);
        // Discovered servers may have `max_conns`.
        let has_limit = !sources.is_empty() || servers.iter().any(|s| s.max_conns.is_some());
        let queue = self.queue(raw, has_limit || servers.is_empty());
        Upstream {
            // The caller sets the ID. Without a valid name, the upstream is still checked.
            id: UpstreamId::from(""),
            servers,
            own_zone: None,
            sources,
            discovery,
            balance: raw
                .balance
                .as_ref()
                .map_or(Balance::default(), |at| at.value.into()),
            slow_start: self.duration(
                "slow_start",
                raw.slow_start.as_ref(),
                Duration::ZERO,
                Zero::Allowed,
            ),
            connect_timeout: self.duration(
                "connect_timeout",
                raw.connect_timeout.as_ref(),
                defaults::CONNECT_TIMEOUT,
                Zero::Refused,
            ),
            max_connecting: raw
                .max_connecting
                .as_ref()
                .and_then(|at| NonZeroU32::new(at.value)),
            retries: raw
                .retries
                .as_ref()
                .map_or(defaults::RETRIES, |at| at.value),
            retry_for: self.duration(
                "retry_for",
                raw.retry_for.as_ref(),
                defaults::RETRY_FOR,
                Zero::Allowed,
            ),
            panic: raw
                .panic
                .as_ref()
                .map_or(PanicPolicy::default(), |at| match at.value {
                    raw::Panic::Dial => PanicPolicy::Dial,
                    raw::Panic::Refuse => PanicPolicy::Refuse,
                }),
            queue,
            keepalive: self.keepalive(raw.keepalive.as_ref()),
            proxy_protocol: raw.proxy_protocol.as_ref().and_then(|at| match at.value {
                ProxyProtocolOut::Off => None,
                ProxyProtocolOut::V1 => Some(Version::V1),
                ProxyProtocolOut::V2 => Some(Version::V2),
                ProxyProtocolOut::V2Tls => Some(Version::V2Tls),
                ProxyProtocolOut::V2TlsFull => Some(Version::V2TlsFull),
            }),
            health_check: match &raw.health_check {
                None => self.health_check(&RawHealthCheck::default(), &(0..0)),
                Some(At { value, span }) => self.health_check(value, span),
            },
            agent_check: self.agent_check(raw),
            passive: self.passive(raw.passive.as_ref()),
            rebalance: raw.rebalance.as_ref().map(|raw| self.rebalance(raw)),
            tls,
        }
    }

    fn queue(&mut self, raw: &RawUpstream, has_limit: bool) -> QueuePolicy {
        let Some(At { value: queue, span }) = &raw.queue else {
            return QueuePolicy::default();
        };
        let size = queue.size.as_ref().map_or(0, |at| at.value);
        let timeout = self.duration(
            "timeout",
            queue.timeout.as_ref(),
            defaults::QUEUE_TIMEOUT,
            Zero::Refused,
        );
        if size > 0 && !has_limit {
            self.problems
                .warning("`queue` has no effect: no server of the upstream has `max_conns`")
                .at(span.clone())
                .help(
                    "add a limit to the servers: `{ address = \"webapp1:80\", max_conns = 100 }`",
                );
        } else if size == 0 && queue.timeout.is_some() {
            self.problems
                .warning("`queue` has no effect without `size`")
                .at(span.clone())
                .help("set the maximum of waiting connections: `size = 100`");
        }
        QueuePolicy::new(usize::try_from(size).unwrap_or(usize::MAX), timeout)
    }

    fn rebalance(&mut self, raw: &RawRebalance) -> Rebalance {
        let most = match &raw.most {
            None => (defaults::REBALANCE_MOST, 0..0),
            Some(at) => (&*at.value, at.span.clone()),
        };
        Rebalance {
            above: raw
                .above
                .as_ref()
                .map_or(defaults::REBALANCE_ABOVE, |at| at.value),
            most: self.percentage("most", most.0, most.1),
            quiet: self.duration(
                "quiet",
                raw.quiet.as_ref(),
                defaults::REBALANCE_QUIET,
                Zero::Refused,
            ),
        }
    }

    /// Resolves a percentage above 0 % and up to 100 %.
    fn percentage(&mut self, key: &str, text: &str, span: Range<usize>) -> Ratio {
        let number = text
            .strip_suffix('%')
            .and_then(|number| number.parse().ok());
        let fraction = number
            .filter(|&number: &f64| number > 0.0)
            .and_then(|number| Ratio::new(number / 100.0));
        fraction.unwrap_or_else(|| {
            self.problems
                .error(format!("`{key}`: {text:?} is not a percentage"))
                .at(span)
                .help("write a percentage above 0 % and up to 100 %, like \"1%\"");
            Ratio::ALL
        })
    }

    fn servers(
        &mut self,
        table: &At<RawUpstream>,
        upstream: Option<&UpstreamId>,
    ) -> (Vec<ServerSpec>, Vec<ServerSource>) {
        let (mut servers, mut sources) = (Vec::new(), Vec::new());
        let Some(list) = &table.value.servers else {
            return (servers, sources);
        };
        let mut names = HashMap::new();
        let mut addresses: HashMap<Address, Range<usize>> = HashMap::new();
        let mut seen_sources = HashMap::new();
        for entry in &list.value {
            if let ServerEntry::Table(raw) = &entry.value
                && !self.has_one_kind(raw, &entry.span)
            {
                continue;
            }
            if let ServerEntry::Table(raw) = &entry.value
                && raw.address.is_none()
            {
                if let Some((source, span)) = self.source(raw)
                    && self.is_first_source(&source, &span, &mut seen_sources)
                {
                    if let Some(upstream) = upstream {
                        self.uses.sources.push(SourceUse {
                            upstream: upstream.clone(),
                            kind: source.kind.clone(),
                            span,
                        });
                    }
                    sources.push(source);
                }
                continue;
            }
            let Some((server, name_span, address_span)) = self.server(entry) else {
                continue;
            };
            if !self.unique("server", server.id.to_string(), &name_span, &mut names) {
                continue;
            }
            if let Some(first) = addresses.get(&server.address) {
                self.problems
                    .warning(format!("two servers have the address {}", server.address))
                    .at(address_span.clone())
                    .related(first.clone(), "the first")
                    .note("the server gets the connections of both entries");
            }
            addresses.insert(server.address.clone(), address_span.clone());
            if let Some(upstream) = upstream {
                self.uses.addresses.push(AddressUse {
                    upstream: upstream.clone(),
                    server: server.id.clone(),
                    address: server.address.clone(),
                    span: address_span,
                });
            }
            servers.push(server);
        }
        if list.value.is_empty() && !self.pruned(&list.span) {
            self.problems
                .error("the upstream has no servers")
                .at(list.span.clone())
                .help("write `servers = [\"webapp1:80\"]`");
        } else if !(servers.is_empty() && sources.is_empty())
            && servers.iter().all(|server| server.backup)
            && sources.iter().all(|source| source.backup)
        {
            self.problems
                .warning("all servers of the upstream are backups")
                .at(list.span.clone())
                .note("they are always used");
        }
        (servers, sources)
    }

    /// Resolves a server. Returns it with the positions of its name and of its address.
    fn server(
        &mut self,
        entry: &At<ServerEntry>,
    ) -> Option<(ServerSpec, Range<usize>, Range<usize>)> {
        match &entry.value {
            ServerEntry::Address(text) => {
                let address = self.address(text, &entry.span)?;
                let server = ServerSpec::new(ServerId::from(&**text), address);
                Some((server, entry.span.clone(), entry.span.clone()))
            }
            ServerEntry::Table(raw) => self.server_table(raw),
        }
    }

    fn server_table(
        &mut self,
        raw: &RawServer,
    ) -> Option<(ServerSpec, Range<usize>, Range<usize>)> {
        let At { value: text, span } = raw.address.as_ref()?;
        let address = self.address(text, span);
        let (name, name_span) = match &raw.name {
            None => (text, span),
            // The address is always allowed as a name, because the short form uses it as the name.
            Some(name) if name.value == *text => (text, span),
            Some(name) => {
                if !self.check_name("server", &name.value, &name.span) {
                    return None;
                }
                (&name.value, &name.span)
            }
        };
        let weight = raw.weight.as_ref();
        let max_conns = raw.max_conns.as_ref();
        let server = ServerSpec::new(&**name, address?)
            .weight(
                weight
                    .and_then(|at| Weight::new(at.value))
                    .unwrap_or_default(),
            )
            .max_conns(max_conns.and_then(|at| NonZeroU32::new(at.value)))
            .backup(raw.backup.as_ref().is_some_and(|at| at.value))
            .zone(raw.zone.as_ref().and_then(|zone| self.zone(zone)));
        Some((server, name_span.clone(), span.clone()))
    }

    fn address(&mut self, text: &str, span: &Range<usize>) -> Option<Address> {
        match text.parse() {
            Ok(Address::Unix(path)) => {
                // The path is relative to the configuration file. Parse the joined path
                // again, because the joined path may be too long.
                let path = self.path(&path.to_string_lossy());
                let absolute = format!("unix:{}", path.display()).parse();
                if let Err(error) = &absolute {
                    self.problems
                        .error(format!("{text:?} is not a server address"))
                        .at(span.clone())
                        .note(AddressError::to_string(error));
                }
                absolute.ok()
            }
            Ok(address) => Some(address),
            Err(error) => {
                let problem = self
                    .problems
                    .error(format!("{text:?} is not a server address"))
                    .at(span.clone());
                if text.contains("://") {
                    problem.help("write HOST:PORT, without `tcp://` or `http://`");
                } else if let Some(bracketed) = Address::bracketed(text) {
                    problem.help(format!(
                        "an IPv6 address is written in brackets: \"{bracketed}\""
                    ));
                } else {
                    problem.note(error.to_string());
                }
                None
            }
        }
    }
}
