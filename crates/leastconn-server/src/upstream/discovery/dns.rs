//! DNS look-ups: addresses and SRV records, with their TTLs.
//!
//! Answers are not cached: the caller decides when to look up again. Truncated answers are
//! requested again over TCP. The addresses of a `dns` source may also come from `/etc/hosts`.

mod hosts;
mod targets;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RecordType},
    system_conf::parse_resolv_conf,
};
use leastconn::{Address, ServerId};
use tokio::time::timeout;

use super::{
    members::{Answer, FoundServer, UnknownServers},
    srv_names::SrvNames,
};
use leastconn_config::{
    AddressFamily, Discovery,
    files::{self, Lane, NoResult},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Maximum size of `/etc/resolv.conf`.
const RESOLV_CONF_SIZE: u64 = 64 * 1024;

const HOSTS: &str = "/etc/hosts";

/// Maximum size of `/etc/hosts`. Lists of blocked names can have a few megabytes.
const HOSTS_SIZE: u64 = 16 * 1024 * 1024;

/// Time limit of a look-up, including all retries and the addresses of SRV targets.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of one query, after which it is repeated or sent to the next DNS server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Minimum time limit of one query, because `options timeout:` in `/etc/resolv.conf` may be 0.
const MIN_QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a look-up found no records.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("the name does not exist (NXDOMAIN)")]
    NoSuchName,
    #[error("the name has no {0} records")]
    NoRecords(&'static str),
    #[error("{0}")]
    Failed(#[from] NetError),
    #[error("no server can have the address {0}")]
    InvalidAddress(IpAddr),
    /// No server is known, because parts of the look-up failed or records are invalid.
    #[error("{0}")]
    NoUsableRecords(String),
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
    /// Whether the DNS server has answered that the name or the records do not exist.
    pub(crate) const fn is_empty_answer(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::NoRecords(_))
    }
}

/// Looks up names with the settings of one upstream.
#[derive(Debug)]
pub(super) struct DnsClient {
    resolvers: Vec<SocketAddr>,
    family: AddressFamily,
    /// Maximum number of servers in an answer.
    max: usize,
    hosts: PathBuf,
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
    /// Names with fewer dots are looked up in the search domains first. Other names are looked up
    /// there last.
    ndots: usize,
    family: AddressFamily,
}

/// The addresses of a name.
#[derive(Debug)]
struct Addresses {
    addresses: BTreeSet<IpAddr>,
    ttl: u32,
    v4_failure: Option<String>,
    v6_failure: Option<String>,
    /// An address in the answer that no server can have.
    invalid: Option<IpAddr>,
}

impl Addresses {
    const fn new() -> Self {
        Self {
            addresses: BTreeSet::new(),
            ttl: u32::MAX,
            v4_failure: None,
            v6_failure: None,
            invalid: None,
        }
    }

    fn add(&mut self, address: IpAddr, ttl: u32) {
        if is_usable(address) {
            self.addresses.insert(address);
            self.ttl = self.ttl.min(ttl);
        } else {
            self.invalid = Some(address);
        }
    }

    fn problem(&self) -> Option<String> {
        let v4 = self.v4_failure.as_ref().map(|error| format!("A: {error}"));
        let v6 = self.v6_failure.as_ref();
        let v6 = v6.map(|error| format!("AAAA: {error}"));
        let invalid = self.invalid.map(DnsError::InvalidAddress);
        let invalid = invalid.map(|error| error.to_string());
        join([v4, v6, invalid].into_iter().flatten().collect())
    }
}

impl DnsClient {
    pub(super) fn new(settings: &Discovery) -> Self {
        Self {
            resolvers: settings.resolvers.clone(),
            family: settings.family,
            max: settings.max,
            hosts: PathBuf::from(HOSTS),
            lane: Lane::default(),
            current: None,
        }
    }

    /// Finds the servers of a `dns` source: the addresses of `host`.
    pub(super) async fn addresses(&mut self, host: &str, port: u16) -> Result<Answer, DnsError> {
        let look_up = async {
            let server = |address| {
                let address = SocketAddr::new(address, port);
                FoundServer::new(ServerId::from(address.to_string()), Address::from(address))
            };
            let in_hosts = self.addresses_in_hosts(host).await?;
            if !in_hosts.is_empty() {
                let servers = in_hosts.into_iter().map(server);
                return Ok(Answer::complete(servers.collect()));
            }
            let resolver = self.resolver().await?;
            let found = resolver.searched(host, Resolver::addresses).await?;
            let v4 = found.v4_failure.as_ref().map(|_| UnknownServers::V4);
            let v6 = found.v6_failure.as_ref().map(|_| UnknownServers::V6);
            Ok(Answer {
                unknown: v4.into_iter().chain(v6).collect(),
                problem: found.problem(),
                servers: found.addresses.into_iter().map(server).collect(),
                omitted: 0,
                ttl: Some(Duration::from_secs(found.ttl.into())),
            })
        };
        timeout(TIMEOUT, look_up)
            .await
            .map_err(|_| DnsError::TimedOut)?
    }

    /// The addresses of `host` in `/etc/hosts`. Empty if DNS servers are configured, because an
    /// operator who chooses the DNS servers expects their answers. Also empty for names that end
    /// with a dot, which therefore always come from DNS.
    async fn addresses_in_hosts(&mut self, host: &str) -> Result<BTreeSet<IpAddr>, DnsError> {
        if !self.resolvers.is_empty() || host.ends_with('.') {
            return Ok(BTreeSet::new());
        }
        let (path, name) = (self.hosts.clone(), host.to_owned());
        let read = move || {
            let contents = files::read(&path, HOSTS_SIZE)?;
            Ok(hosts::addresses(&contents.bytes, &name))
        };
        let found: io::Result<_> = self.lane.run(read).await?;
        // If the file cannot be read, DNS decides, as in the C library.
        let mut found = found.unwrap_or_default();
        found.retain(|&address| is_in(self.family, address));
        Ok(found)
    }

    /// Finds the servers of an `srv` source: the records of `name`. `names` assigns names to the
    /// targets.
    pub(super) async fn records(
        &mut self,
        name: &str,
        names: &mut SrvNames,
    ) -> Result<Answer, DnsError> {
        // The limit on members, including those that are missing from the answer.
        let most = self.max.saturating_mul(2);
        let look_up = async {
            let resolver = self.resolver().await?;
            let lookup = resolver.searched(name, Resolver::srv).await?;
            Ok(targets::resolve(&resolver, &lookup, names, most).await)
        };
        let found = timeout(TIMEOUT, look_up)
            .await
            .map_err(|_| DnsError::TimedOut)
            .flatten()?;
        let problem = join(found.problems);
        let servers = names.servers(found.records);
        if servers.is_empty()
            && let Some(problem) = problem
        {
            return Err(DnsError::NoUsableRecords(problem));
        }
        let unknown = found.unknown_targets.iter();
        let unknown = unknown.flat_map(|target| names.of_target(target));
        Ok(Answer {
            unknown: unknown
                .map(|name| UnknownServers::Target(name.to_owned()))
                .collect(),
            servers,
            omitted: found.omitted,
            problem,
            ttl: Some(Duration::from_secs(found.ttl.into())),
        })
    }

    /// The resolver for the configured DNS servers or, without them, for the current contents of
    /// `/etc/resolv.conf`.
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
        options.timeout = options.timeout.clamp(MIN_QUERY_TIMEOUT, QUERY_TIMEOUT);
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

    /// Looks up `name` in the search domains, like the C library's resolver. Stops at the first
    /// name that has records. Also stops at the first failure, because the name in a later domain
    /// may belong to another service.
    async fn searched<T>(
        &self,
        name: &str,
        look_up: impl AsyncFn(&Self, Name) -> Result<T, DnsError>,
    ) -> Result<T, DnsError> {
        let mut result = Err(DnsError::NoSuchName);
        for name in self.candidates(name)? {
            match look_up(self, name).await {
                // If one of the names exists without records, report `NoRecords`.
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
        let mut found = Addresses::new();
        let mut failure = None;
        let mut exists = false;
        for (result, is_v4) in [(v4, true), (v6, false)] {
            match result {
                None => {}
                Some(Ok(lookup)) => {
                    exists = true;
                    for record in lookup.answers() {
                        if let Some(address) = record.data.ip_addr() {
                            found.add(address, record.ttl);
                        }
                    }
                }
                Some(Err(error)) if error.is_no_records_found() => exists |= !error.is_nx_domain(),
                Some(Err(error)) => {
                    let text = Some(error.to_string());
                    if is_v4 {
                        found.v4_failure = text;
                    } else {
                        found.v6_failure = text;
                    }
                    failure = Some(error);
                }
            }
        }
        match (found.addresses.is_empty(), failure, found.invalid) {
            (false, _, _) => Ok(found),
            (true, Some(error), _) => Err(error.into()),
            (true, None, Some(address)) => Err(DnsError::InvalidAddress(address)),
            (true, None, None) if exists => Err(DnsError::NoRecords("address")),
            (true, None, None) => Err(DnsError::NoSuchName),
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
}

const fn is_in(family: AddressFamily, address: IpAddr) -> bool {
    match family {
        AddressFamily::Any => true,
        AddressFamily::V4 => address.is_ipv4(),
        AddressFamily::V6 => address.is_ipv6(),
    }
}

/// Whether a server can have this address. DNS filters answer with `0.0.0.0` and `::`, but
/// connections to these addresses reach the balancer's own host.
const fn is_usable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

/// A name as text, without the trailing dot.
fn host(name: &Name) -> String {
    let text = name.to_ascii();
    text.trim_end_matches('.').to_owned()
}

/// The first problem, and the number of further problems.
fn join(problems: Vec<String>) -> Option<String> {
    let others = problems.len().saturating_sub(1);
    let first = problems.into_iter().next()?;
    Some(match others {
        0 => first,
        _ => format!("{first} (and {others} more)"),
    })
}

#[cfg(test)]
mod tests;
