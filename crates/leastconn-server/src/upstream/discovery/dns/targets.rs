//! The addresses of the targets of SRV records.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use hickory_resolver::{
    lookup::Lookup,
    proto::rr::{Name, RData},
};
use leastconn_config::AddressFamily;
use tokio::task::JoinSet;

use super::{
    super::srv_names::{SrvNames, SrvRecord},
    Addresses, DnsError, Resolver, host, is_in, is_usable,
};

/// Maximum number of SRV targets that are looked up at the same time.
const CONCURRENT_TARGETS: usize = 16;

/// The servers of SRV records.
#[derive(Debug, Default)]
pub(super) struct SrvAnswer {
    pub(super) records: Vec<SrvRecord>,
    /// Number of records that were omitted because there were too many.
    pub(super) omitted: usize,
    pub(super) ttl: u32,
    /// Targets for which some addresses are unknown. In lower case, without the trailing dot.
    pub(super) unknown_targets: Vec<String>,
    pub(super) problems: Vec<String>,
}

/// Finds the addresses of the targets of SRV records, in the additional section or else by looking
/// up each target. `names` contains the targets of the previous answer. At most `most` records are
/// used.
pub(super) async fn resolve(
    resolver: &Resolver,
    lookup: &Lookup,
    names: &SrvNames,
    most: usize,
) -> SrvAnswer {
    let mut found = SrvAnswer {
        ttl: u32::MAX,
        ..SrvAnswer::default()
    };
    let mut targets = BTreeMap::new();
    let mut records = Vec::new();
    for record in lookup.answers() {
        let RData::SRV(srv) = &record.data else {
            continue;
        };
        found.ttl = found.ttl.min(record.ttl);
        // A single dot means that the service is not available.
        if srv.target.is_root() {
            continue;
        }
        let name = srv.target.to_lowercase();
        let target = host(&name);
        if srv.port == 0 {
            found.problems.push(format!("{target}: the port is 0"));
            continue;
        }
        records.push(SrvRecord {
            target: target.clone(),
            port: srv.port,
            priority: srv.priority,
            weight: srv.weight,
            addresses: Vec::new(),
        });
        targets.insert(target, name);
    }
    (records, found.omitted) = names.limit(records, most);

    let mut known = additional(resolver, lookup);
    known.retain(|target, addresses| is_complete(resolver.family, addresses, names, target));
    let missing = {
        let kept: BTreeSet<_> = records.iter().map(|record| &record.target).collect();
        targets.retain(|target, _| kept.contains(target) && !known.contains_key(target));
        targets
    };
    let mut results = look_up_all(resolver, &missing).await;
    for target in missing.into_keys() {
        let problem = match results.remove(&target) {
            Some(Ok(addresses)) => {
                let has_v4 = addresses.addresses.iter().any(IpAddr::is_ipv4);
                if addresses.v4_failure.is_some() {
                    found.unknown_targets.push(target.clone());
                }
                // If a target has IPv4 addresses, its IPv6 addresses are not used.
                let is_affected = !has_v4 || addresses.invalid.is_some();
                let problem = addresses.problem().filter(|_| is_affected);
                // The server must not move to an IPv6 address while the look-up of its IPv4
                // address fails.
                let had_v4 = || names.addresses_of(&target).any(|ip| ip.is_ipv4());
                if addresses.v4_failure.is_none() || !had_v4() {
                    known.insert(target.clone(), addresses);
                }
                problem
            }
            // The target has no address. `hold` delays the removal of its servers.
            Some(Err(error)) if error.is_empty_answer() => None,
            Some(Err(error)) => {
                found.unknown_targets.push(target.clone());
                Some(error.to_string())
            }
            // The task panicked, and the panic was logged.
            None => {
                found.unknown_targets.push(target.clone());
                Some("the look-up was aborted".to_owned())
            }
        };
        let problem = problem.map(|problem| format!("{target}: {problem}"));
        found.problems.extend(problem);
    }
    for mut record in records {
        if let Some(addresses) = known.get(&record.target) {
            found.ttl = found.ttl.min(addresses.ttl);
            record.addresses = one_family(&addresses.addresses);
            found.records.push(record);
        }
    }
    found
}

/// The addresses in the additional section, by target.
fn additional(resolver: &Resolver, lookup: &Lookup) -> HashMap<String, Addresses> {
    let mut known: HashMap<_, Addresses> = HashMap::new();
    for record in lookup.additionals() {
        let is_used = |ip: &IpAddr| is_in(resolver.family, *ip) && is_usable(*ip);
        if let Some(address) = record.data.ip_addr().filter(is_used) {
            let target = host(&record.name.to_lowercase());
            let known = known.entry(target).or_insert_with(Addresses::new);
            known.add(address, record.ttl);
        }
    }
    known
}

/// Whether the additional section contains all addresses of a target that are used. DNS servers may
/// omit records there, for example to keep an answer short. Without a look-up, the server's name
/// would then move to an IPv6 address, or a server would be removed.
fn is_complete(
    family: AddressFamily,
    addresses: &Addresses,
    names: &SrvNames,
    target: &str,
) -> bool {
    let addresses = &addresses.addresses;
    let has_family = family != AddressFamily::Any || addresses.iter().any(IpAddr::is_ipv4);
    has_family && names.addresses_of(target).all(|ip| addresses.contains(&ip))
}

/// Looks up the addresses of all targets. Targets whose task has panicked are missing from the
/// result.
async fn look_up_all(
    resolver: &Resolver,
    targets: &BTreeMap<String, Name>,
) -> HashMap<String, Result<Addresses, DnsError>> {
    let mut targets = targets.iter();
    let mut running = JoinSet::new();
    let mut results = HashMap::new();
    let resolver = Arc::new(resolver.clone());
    loop {
        while running.len() < CONCURRENT_TARGETS
            && let Some((target, name)) = targets.next()
        {
            let (resolver, target, name) = (Arc::clone(&resolver), target.clone(), name.clone());
            running.spawn(async move { (target, resolver.addresses(name).await) });
        }
        match running.join_next().await {
            Some(Ok((target, addresses))) => {
                results.insert(target, addresses);
            }
            Some(Err(_)) => {}
            None => return results,
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
mod tests;
