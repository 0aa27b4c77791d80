//! Sources of servers, and `[upstream.discovery]`

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    ops::Range,
};

use leastconn::{Address, Weight};

use super::{Resolver, Zero};
use crate::{
    defaults,
    model::{Discovery, ServerSource, SourceKind},
    raw::{
        RawDiscovery, RawServer, RawUpstream,
        value::{At, Opt},
    },
};

/// The default port of DNS servers.
const DNS_PORT: u16 = 53;

impl Resolver<'_> {
    /// Checks that an entry of `servers` has exactly one of `address`, `dns`, `srv` and `file`.
    pub(super) fn has_one_kind(&mut self, raw: &RawServer, span: &Range<usize>) -> bool {
        let keys = [
            ("address", &raw.address),
            ("dns", &raw.dns),
            ("srv", &raw.srv),
            ("file", &raw.file),
        ];
        let mut present = keys
            .iter()
            .filter_map(|(key, at)| Some((key, at.as_ref()?)));
        let first = present.next();
        match (first, present.next()) {
            (Some(_), None) => true,
            (None, _) => {
                // If the schema check has removed a value, it has also reported the problem.
                if !self.pruned(span) {
                    self.problems
                        .error("a server needs `address`, `dns`, `srv` or `file`")
                        .at(span.clone());
                }
                false
            }
            (Some((first_key, first)), Some((key, at))) => {
                self.problems
                    .error(format!("`{first_key}` and `{key}` cannot be combined"))
                    .at(at.span.clone())
                    .related(first.span.clone(), "the first")
                    .help("write two entries of `servers`");
                false
            }
        }
    }

    /// Warns if discovered servers are verified by their IP addresses, which certificates rarely
    /// contain.
    pub(super) fn check_names_of_discovered(
        &mut self,
        raw: &RawUpstream,
        sources: &[ServerSource],
    ) {
        let Some(At { value: tls, span }) = &raw.tls else {
            return;
        };
        let by_address = tls.server_name.is_none() && tls.uri.is_none() && tls.pin.is_none();
        let source = sources
            .iter()
            .find(|source| !matches!(source.kind, SourceKind::File(_)));
        if let (true, Some(source)) = (by_address, source) {
            self.problems
                .warning("certificates of discovered servers must contain their IP addresses")
                .at(span.clone())
                .note(format!("`{}` finds IP addresses", source.kind))
                .help("add `server_name`, a name that the servers' certificates contain");
        }
    }

    /// Resolves an entry of `servers` with `dns`, `srv` or `file`. Returns it with the position
    /// of that key.
    pub(super) fn source(&mut self, raw: &RawServer) -> Option<(ServerSource, Range<usize>)> {
        if let Some(name) = &raw.name {
            self.problems
                .error("discovered servers cannot be named in the configuration")
                .at(name.span.clone())
                .help("remove `name`: the names come from `dns`, `srv` or `file`");
        }
        let (kind, span) = match raw {
            RawServer { dns: Some(at), .. } => (self.dns(at)?, &at.span),
            RawServer { srv: Some(at), .. } => (self.srv(at)?, &at.span),
            RawServer { file: Some(at), .. } => (self.server_file(at), &at.span),
            _ => return None,
        };
        let weight = raw.weight.as_ref();
        let max_conns = raw.max_conns.as_ref();
        let source = ServerSource {
            kind,
            weight: weight
                .and_then(|at| Weight::new(at.value))
                .unwrap_or_default(),
            max_conns: max_conns.and_then(|at| NonZeroU32::new(at.value)),
            backup: raw.backup.as_ref().is_some_and(|at| at.value),
            zone: raw.zone.as_ref().and_then(|zone| self.zone(zone)),
        };
        Some((source, span.clone()))
    }

    /// Returns whether this is the first occurrence of the source. Reports duplicates.
    pub(super) fn is_first_source(
        &mut self,
        source: &ServerSource,
        span: &Range<usize>,
        seen: &mut HashMap<SourceKind, Range<usize>>,
    ) -> bool {
        if let Some(first) = seen.get(&source.kind) {
            self.problems
                .error(format!("`{}` is listed twice", source.kind))
                .at(span.clone())
                .related(first.clone(), "the first");
            return false;
        }
        seen.insert(source.kind.clone(), span.clone());
        true
    }

    fn dns(&mut self, at: &At<String>) -> Option<SourceKind> {
        let parsed = at.value.parse();
        if let Ok(Address::Name { host, port }) = parsed {
            return Some(SourceKind::Dns { host, port });
        }
        let problem = self
            .problems
            .error(format!(
                "`dns` takes a host name and a port, not {:?}",
                at.value
            ))
            .at(at.span.clone());
        match parsed {
            Ok(address) => problem.help(format!("write `address = \"{address}\"`")),
            Err(error) => problem.note(error.to_string()),
        };
        None
    }

    fn srv(&mut self, at: &At<String>) -> Option<SourceKind> {
        let name = &*at.value;
        // The name has the syntax of a host name. The parser requires a port.
        if let Ok(Address::Name { host, .. }) = format!("{name}:1").parse() {
            return Some(SourceKind::Srv(host));
        }
        let problem = self
            .problems
            .error(format!("{name:?} is not the name of SRV records"))
            .at(at.span.clone());
        if name.contains(':') {
            problem.help("write the name without a port: the records contain the ports");
        } else {
            problem.help("write a name such as \"_http._tcp.web.example.com\"");
        }
        None
    }

    fn server_file(&mut self, at: &At<String>) -> SourceKind {
        if at.value.is_empty() {
            self.problems
                .error("`file` is empty")
                .at(at.span.clone())
                .help("write the path of a JSON file with servers");
        }
        SourceKind::File(self.path(&at.value).into())
    }

    /// Resolves the table. `has_sources`: the upstream has a source of servers.
    pub(super) fn discovery(&mut self, raw: &Opt<RawDiscovery>, has_sources: bool) -> Discovery {
        let default = RawDiscovery::default();
        let table = raw.as_ref().map_or(&default, |at| &at.value);
        if let Some(at) = raw
            && !has_sources
        {
            self.problems
                .warning("`discovery` has no effect: all servers are listed with their address")
                .at(at.span.clone())
                .help("add a server with `dns`, `srv` or `file` to `servers`");
        }
        let refresh = self.duration(
            "refresh",
            table.refresh.as_ref(),
            defaults::DISCOVERY_REFRESH,
            Zero::Refused,
        );
        if refresh < defaults::DISCOVERY_MIN_REFRESH
            && let Some(at) = &table.refresh
        {
            self.problems
                .error("`refresh` must be at least \"1s\"")
                .at(at.span.clone());
        }
        let max = table.max.as_ref();
        let max = max.map_or(defaults::DISCOVERY_MAX, |at| at.value);
        Discovery {
            refresh,
            hold: self.duration(
                "hold",
                table.hold.as_ref(),
                defaults::DISCOVERY_HOLD,
                Zero::Allowed,
            ),
            removed: table
                .removed
                .as_ref()
                .map(|at| at.value)
                .unwrap_or_default(),
            max: usize::try_from(max).unwrap_or(usize::MAX),
            resolvers: self.resolvers(table.resolver.as_ref()),
            family: table.family.as_ref().map(|at| at.value).unwrap_or_default(),
            start: table.start.as_ref().map(|at| at.value).unwrap_or_default(),
        }
    }

    fn resolvers(&mut self, list: Option<&At<Vec<At<String>>>>) -> Vec<SocketAddr> {
        let Some(list) = list else {
            return Vec::new();
        };
        if list.value.is_empty() && !self.pruned(&list.span) {
            self.problems
                .error("`resolver` is an empty list")
                .at(list.span.clone())
                .help("remove the key to use the DNS servers in `/etc/resolv.conf`");
        }
        let mut resolvers = Vec::new();
        for At { value, span } in &list.value {
            let address = value.parse::<SocketAddr>().or_else(|_| {
                let ip = value.parse::<IpAddr>();
                ip.map(|ip| SocketAddr::new(ip, DNS_PORT))
            });
            match address {
                Ok(address) if address.port() != 0 => resolvers.push(address),
                _ => {
                    self.problems
                        .error(format!("{value:?} is not the address of a DNS server"))
                        .at(span.clone())
                        .help("write an IP address, with or without a port: \"10.0.0.2:53\"");
                }
            }
        }
        resolvers
    }
}
