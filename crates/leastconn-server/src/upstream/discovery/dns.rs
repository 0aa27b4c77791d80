//! DNS look-ups: addresses and SRV records, with their TTLs.
//!
//! Answers are not cached: the caller decides when to look up again. Truncated answers are
//! requested again over TCP. `/etc/hosts` is not used, because it lists no records with a TTL.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
    system_conf::parse_resolv_conf,
};
use leastconn::{Address, ServerId};
use tokio::{task::JoinSet, time::timeout};

use super::{
    members::{Answer, FoundServer},
    srv_names::{SrvNames, SrvRecord},
};
use leastconn_config::{
    AddressFamily, Discovery,
    files::{self, Lane, NoResult},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Maximum size of `/etc/resolv.conf`.
const RESOLV_CONF_SIZE: u64 = 64 * 1024;

/// Time limit of a look-up, including all retries and the addresses of SRV targets.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of one query, after which it is repeated or sent to the next DNS server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of SRV targets that are looked up at the same time.
const CONCURRENT_TARGETS: usize = 16;

/// Why a look-up has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("the name does not exist (NXDOMAIN)")]
    NoSuchName,
    #[error("the name has no {0} records")]
    NoRecords(&'static str),
    #[error("{0}")]
    Failed(#[from] NetError),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    #[error("{RESOLV_CONF} cannot be read: {0}")]
    ReadConfiguration(io::Error),
    #[error("{RESOLV_CONF} cannot be used: {0}")]
    Configuration(NetError),
    #[error(transparent)]
    Blocked(#[from] NoResult),
}

impl DnsError {
    /// Whether the DNS server answered that there are no records.
    pub(crate) const fn is_empty_answer(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::NoRecords(_))
    }
}

/// Looks up names with the settings of one upstream.
#[derive(Debug)]
pub(super) struct DnsClient {
    resolvers: Vec<SocketAddr>,
    family: AddressFamily,
    lane: Lane,
    current: Option<Current>,
}

/// The resolver, and the `/etc/resolv.conf` from which it was made.
#[derive(Debug)]
struct Current {
    resolv_conf: Option<Vec<u8>>,
    resolver: Resolver,
}

#[derive(Clone, Debug)]
struct Resolver {
    dns: TokioResolver,
    search: Vec<Name>,
    /// Names with fewer dots are first looked up in the search domains.
    ndots: usize,
    family: AddressFamily,
}

/// The addresses of a name.
#[derive(Debug)]
struct Addresses {
    addresses: BTreeSet<IpAddr>,
    ttl: u32,
    /// Whether the look-ups of all address families succeeded.
    is_complete: bool,
}

impl DnsClient {
    pub(super) fn new(settings: &Discovery) -> Self {
        Self {
            resolvers: settings.resolvers.clone(),
            family: settings.family,
            lane: Lane::default(),
            current: None,
        }
    }

    /// Finds the servers of `dns`: the addresses of `host`.
    pub(super) async fn addresses(&mut self, host: &str, port: u16) -> Result<Answer, DnsError> {
        let look_up = async {
            let resolver = self.resolver().await?;
            let found = resolver.searched(host, Resolver::addresses).await?;
            let server = |address| {
                let address = SocketAddr::new(address, port);
                FoundServer::new(ServerId::from(address.to_string()), Address::from(address))
            };
            Ok(Answer {
                servers: found.addresses.into_iter().map(server).collect(),
                is_complete: found.is_complete,
                ttl: Some(Duration::from_secs(found.ttl.into())),
            })
        };
        timeout(TIMEOUT, look_up)
            .await
            .map_err(|_| DnsError::TimedOut)?
    }

    /// Finds the servers of `srv`: the records of `name`. `names` names the targets.
    pub(super) async fn records(
        &mut self,
        name: &str,
        names: &mut SrvNames,
    ) -> Result<Answer, DnsError> {
        let look_up = async {
            let resolver = self.resolver().await?;
            let lookup = resolver.searched(name, Resolver::srv).await?;
            Ok(resolver.resolve_targets(&lookup).await)
        };
        let (records, ttl, is_complete) = timeout(TIMEOUT, look_up)
            .await
            .map_err(|_| DnsError::TimedOut)
            .flatten()?;
        Ok(Answer {
            servers: names.servers(records),
            is_complete,
            ttl: Some(Duration::from_secs(ttl.into())),
        })
    }

    /// The resolver for the configured DNS servers, or for those in `/etc/resolv.conf` at present.
    async fn resolver(&mut self) -> Result<Resolver, DnsError> {
        let resolv_conf = if self.resolvers.is_empty() {
            let read = || files::read(Path::new(RESOLV_CONF), RESOLV_CONF_SIZE);
            let contents = self.lane.run(read).await?;
            Some(contents.map_err(DnsError::ReadConfiguration)?.bytes)
        } else {
            None
        };
        if let Some(current) = &self.current
            && current.resolv_conf == resolv_conf
        {
            return Ok(current.resolver.clone());
        }
        let (config, options) = match &resolv_conf {
            Some(contents) => parse_resolv_conf(contents).map_err(DnsError::Configuration)?,
            None => configured(&self.resolvers),
        };
        let resolver = Resolver::new(config, options, self.family)?;
        self.current = Some(Current {
            resolv_conf,
            resolver: resolver.clone(),
        });
        Ok(resolver)
    }
}

fn configured(resolvers: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    let name_servers = resolvers.iter().map(|resolver| {
        let mut server = NameServerConfig::udp_and_tcp(resolver.ip());
        for connection in &mut server.connections {
            connection.port = resolver.port();
        }
        server
    });
    let config = ResolverConfig::from_name_servers(name_servers.collect());
    (config, ResolverOpts::default())
}

impl Resolver {
    fn new(
        mut config: ResolverConfig,
        mut options: ResolverOpts,
        family: AddressFamily,
    ) -> Result<Self, DnsError> {
        // The search list is applied here, so that both address families of a name come from the
        // same domain.
        let search = std::mem::take(&mut config.search);
        config.domain = None;
        let ndots = options.ndots;
        options.timeout = options.timeout.min(QUERY_TIMEOUT);
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let provider = TokioRuntimeProvider::default();
        let dns = TokioResolver::builder_with_config(config, provider)
            .with_options(options)
            .build()
            .map_err(DnsError::Configuration)?;
        Ok(Self {
            dns,
            search,
            ndots,
            family,
        })
    }

    /// Looks up `name` in the search domains, like the resolver of the C library. Stops at the
    /// first name that has records, and at the first failure: a name in a later domain may be
    /// another service.
    async fn searched<T>(
        &self,
        name: &str,
        look_up: impl AsyncFn(&Self, Name) -> Result<T, DnsError>,
    ) -> Result<T, DnsError> {
        let mut result = Err(DnsError::NoSuchName);
        for name in self.candidates(name)? {
            match look_up(self, name).await {
                // Of several names without records, report one that exists.
                Err(error) if error.is_empty_answer() => {
                    if !matches!(result, Err(DnsError::NoRecords(_))) {
                        result = Err(error);
                    }
                }
                other => return other,
            }
        }
        result
    }

    fn candidates(&self, name: &str) -> Result<Vec<Name>, DnsError> {
        let dots = name.matches('.').count();
        let name = Name::from_ascii(name).map_err(NetError::from)?;
        if name.is_fqdn() {
            return Ok(vec![name]);
        }
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        let in_domain = |domain: &Name| {
            let mut name = name.clone().append_domain(domain).ok()?;
            name.set_fqdn(true);
            Some(name)
        };
        let mut candidates: Vec<_> = self.search.iter().filter_map(in_domain).collect();
        if dots >= self.ndots {
            candidates.insert(0, absolute);
        } else {
            candidates.push(absolute);
        }
        Ok(candidates)
    }

    async fn addresses(&self, name: Name) -> Result<Addresses, DnsError> {
        let query = async |wanted: bool, kind| {
            if wanted {
                Some(self.dns.lookup(name.clone(), kind).await)
            } else {
                None
            }
        };
        let (v4, v6) = tokio::join!(
            query(self.family != AddressFamily::V6, RecordType::A),
            query(self.family != AddressFamily::V4, RecordType::AAAA),
        );
        let mut found = Addresses {
            addresses: BTreeSet::new(),
            ttl: u32::MAX,
            is_complete: true,
        };
        let mut failure = None;
        let mut exists = false;
        for result in [v4, v6].into_iter().flatten() {
            match result {
                Ok(lookup) => {
                    exists = true;
                    for record in lookup.answers() {
                        if let Some(address) = record.data.ip_addr() {
                            found.addresses.insert(address);
                            found.ttl = found.ttl.min(record.ttl);
                        }
                    }
                }
                Err(error) if error.is_no_records_found() => exists |= !error.is_nx_domain(),
                Err(error) => {
                    found.is_complete = false;
                    failure = Some(error);
                }
            }
        }
        match (found.addresses.is_empty(), failure) {
            (false, _) => Ok(found),
            (true, Some(error)) => Err(error.into()),
            (true, None) if exists => Err(DnsError::NoRecords("address")),
            (true, None) => Err(DnsError::NoSuchName),
        }
    }

    async fn srv(&self, name: Name) -> Result<Lookup, DnsError> {
        self.dns
            .lookup(name, RecordType::SRV)
            .await
            .map_err(|error| {
                if error.is_nx_domain() {
                    DnsError::NoSuchName
                } else if error.is_no_records_found() {
                    DnsError::NoRecords("SRV")
                } else {
                    error.into()
                }
            })
    }

    /// Finds the addresses of the targets of SRV records: in the additional section, else by a
    /// look-up of each target. Returns also the shortest TTL, and whether all look-ups succeeded.
    async fn resolve_targets(&self, lookup: &Lookup) -> (Vec<SrvRecord>, u32, bool) {
        let mut ttl = u32::MAX;
        let mut known: HashMap<Name, Addresses> = HashMap::new();
        for record in lookup.additionals() {
            if let Some(address) = record.data.ip_addr().filter(|ip| self.is_wanted(*ip)) {
                let target = record.name.to_lowercase();
                let known = known.entry(target).or_insert_with(|| Addresses {
                    addresses: BTreeSet::new(),
                    ttl: u32::MAX,
                    is_complete: true,
                });
                known.addresses.insert(address);
                known.ttl = known.ttl.min(record.ttl);
            }
        }
        let records = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some((srv, record.ttl)),
                _ => None,
            });
        let records: Vec<_> = records.collect();
        // A single dot means that the service is not available.
        let targets: BTreeSet<_> = records
            .iter()
            .map(|(srv, _)| srv.target.to_lowercase())
            .filter(|target| !target.is_root() && !known.contains_key(target))
            .collect();
        let mut is_complete = true;
        for (target, addresses) in self.look_up_all(targets).await {
            match addresses {
                Ok(addresses) => {
                    known.insert(target, addresses);
                }
                // A target without address may have one again soon.
                Err(error) => {
                    tracing::debug!(%target, %error, "SRV target not resolved");
                    is_complete = false;
                }
            }
        }
        let mut found = Vec::new();
        for (srv, record_ttl) in records {
            ttl = ttl.min(record_ttl);
            let Some(addresses) = known.get(&srv.target.to_lowercase()) else {
                continue;
            };
            ttl = ttl.min(addresses.ttl);
            is_complete &= addresses.is_complete;
            let target = srv.target.to_lowercase().to_ascii();
            found.push(SrvRecord {
                target: target.trim_end_matches('.').to_owned(),
                port: srv.port,
                priority: srv.priority,
                weight: srv.weight,
                addresses: one_family(&addresses.addresses),
            });
        }
        (found, ttl, is_complete)
    }

    async fn look_up_all(
        &self,
        targets: BTreeSet<Name>,
    ) -> Vec<(Name, Result<Addresses, DnsError>)> {
        let mut targets = targets.into_iter();
        let mut running = JoinSet::new();
        let mut results = Vec::new();
        let resolver = Arc::new(self.clone());
        loop {
            while running.len() < CONCURRENT_TARGETS
                && let Some(target) = targets.next()
            {
                let resolver = Arc::clone(&resolver);
                running.spawn(async move {
                    let addresses = resolver.addresses(target.clone()).await;
                    (target, addresses)
                });
            }
            match running.join_next().await {
                Some(Ok(result)) => results.push(result),
                // The task panicked, and the panic was logged. The answer is incomplete.
                Some(Err(_)) => {}
                None => return results,
            }
        }
    }

    fn is_wanted(&self, address: IpAddr) -> bool {
        match self.family {
            AddressFamily::Any => true,
            AddressFamily::V4 => address.is_ipv4(),
            AddressFamily::V6 => address.is_ipv6(),
        }
    }
}

/// The IPv4 addresses of an SRV target or, if there are none, its IPv6 addresses. A target with
/// both is one server.
fn one_family(addresses: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let has_v4 = addresses.iter().any(IpAddr::is_ipv4);
    let same = addresses.iter().filter(|ip| ip.is_ipv4() == has_v4);
    same.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(name: &str, ndots: usize) -> Vec<String> {
        let search = ["default.svc.cluster.local", "cluster.local"];
        let (config, mut options) = configured(&["127.0.0.1:53".parse().unwrap()]);
        options.ndots = ndots;
        let search = search.iter().map(|name| Name::from_ascii(name).unwrap());
        let config = ResolverConfig::from_parts(None, search.collect(), config.name_servers);
        let resolver = Resolver::new(config, options, AddressFamily::Any).unwrap();
        let names = resolver.candidates(name).unwrap();
        names.iter().map(Name::to_ascii).collect()
    }

    #[tokio::test]
    async fn search_domains_apply_as_in_the_c_library() {
        let (short, first, second) = (
            "web.",
            "web.default.svc.cluster.local.",
            "web.cluster.local.",
        );
        assert_eq!(candidates("web", 5), [first, second, short]);
        assert_eq!(candidates("web", 0), [short, first, second]);
        assert_eq!(candidates("web.", 5), [short]);
        assert_eq!(candidates("a.b", 1)[0], "a.b.");
        assert_eq!(candidates("a.b", 2)[2], "a.b.");
    }

    #[test]
    fn a_target_with_both_families_is_one_server() {
        let all = |list: &[&str]| -> BTreeSet<IpAddr> {
            list.iter().map(|ip| ip.parse().unwrap()).collect()
        };
        let v4 = all(&["10.0.0.1", "10.0.0.2"]);
        let both = all(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
        assert_eq!(one_family(&both), Vec::from_iter(v4));
        assert_eq!(
            one_family(&all(&["fd00::1"])),
            Vec::from_iter(all(&["fd00::1"]))
        );
    }
}
