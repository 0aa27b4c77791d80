//! Names of servers from SRV records. No I/O and no clock.
//!
//! A server is named after the first label of its target: `web-0` for
//! `web-0.web.default.svc.cluster.local`. Client rules and overrides refer to this name, so it
//! must not change when other records are added or removed. Assigned names are therefore kept.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use leastconn::{Address, ServerId, Weight};

use leastconn_config::names::is_name;

use super::members::FoundServer;

/// Above this number of names, names of targets that are missing from the answer are dropped.
const MAX_NAMES: usize = 4096;

/// An SRV record and the addresses of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SrvRecord {
    /// In lower case, without the dot at the end.
    pub(super) target: String,
    pub(super) port: u16,
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) addresses: Vec<IpAddr>,
}

type Key = (String, u16);

/// The names assigned to SRV targets.
#[derive(Clone, Debug, Default)]
pub(super) struct SrvNames(HashMap<Key, Given>);

#[derive(Clone, Debug)]
struct Given {
    name: String,
    /// The address of the server that has the name without a suffix.
    address: IpAddr,
}

impl SrvNames {
    /// Returns the servers of an answer: one for each address of each record.
    pub(super) fn servers(&mut self, records: Vec<SrvRecord>) -> Vec<FoundServer> {
        let first_priority = records.iter().map(|record| record.priority).min();
        let mut unique: BTreeMap<Key, SrvRecord> = BTreeMap::new();
        for record in records {
            let key = (record.target.clone(), record.port);
            let known = unique.get(&key);
            if known.is_none_or(|known| record.priority < known.priority) {
                unique.insert(key, record);
            }
        }
        if self.0.len() > MAX_NAMES {
            self.0.retain(|key, _| unique.contains_key(key));
        }
        let mut servers = Vec::new();
        for (key, record) in unique {
            let mut addresses = record.addresses;
            addresses.sort_unstable();
            addresses.dedup();
            let Some(&lowest) = addresses.first() else {
                continue;
            };
            let given = self.give(&key, lowest);
            if !addresses.contains(&given.address) {
                // The target has moved, for example a restarted pod of a StatefulSet.
                given.address = lowest;
            }
            for address in addresses {
                let name = if address == given.address {
                    given.name.clone()
                } else {
                    format!("{}-{address}", given.name)
                };
                servers.push(FoundServer {
                    weight: Weight::new(record.weight.into()),
                    backup: (Some(record.priority) > first_priority).then_some(true),
                    ..FoundServer::new(
                        ServerId::from(name),
                        Address::from(SocketAddr::new(address, record.port)),
                    )
                });
            }
        }
        servers
    }

    /// The names that were given to a target, one for each port.
    pub(super) fn of_target(&self, target: &str) -> impl Iterator<Item = &str> {
        let given = self.0.iter();
        given
            .filter(move |((known, _), _)| known == target)
            .map(|(_, given)| &*given.name)
    }

    fn give(&mut self, key: &Key, address: IpAddr) -> &mut Given {
        let name = match self.0.get(key) {
            Some(given) => given.name.clone(),
            None => self.free_name(key),
        };
        let given = Given { name, address };
        self.0.entry(key.clone()).or_insert(given)
    }

    fn free_name(&self, (target, port): &Key) -> String {
        let taken: HashSet<_> = self.0.values().map(|given| &*given.name).collect();
        let label = target.split('.').next().unwrap_or_default();
        let full = format!("{target}:{port}");
        let names = [label, target, &full];
        let is_free = |name: &&&str| is_name(name) && !taken.contains(**name);
        let name = names.iter().find(is_free).map_or(&*full, |name| name);
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(target: &str, port: u16, addresses: &[&str]) -> SrvRecord {
        SrvRecord {
            target: target.to_owned(),
            port,
            priority: 0,
            weight: 0,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn names(servers: &[FoundServer]) -> Vec<(&str, String)> {
        let names = servers.iter();
        names
            .map(|server| (server.id.as_str(), server.address.to_string()))
            .collect()
    }

    #[test]
    fn servers_are_named_after_the_first_label() {
        let servers = SrvNames::default().servers(vec![
            record("web-1.web.svc", 8080, &["10.0.0.2"]),
            record("web-0.web.svc", 80, &["10.0.0.1"]),
        ]);
        assert_eq!(
            names(&servers),
            [
                ("web-0", "10.0.0.1:80".to_owned()),
                ("web-1", "10.0.0.2:8080".to_owned())
            ]
        );
    }

    #[test]
    fn a_moved_target_keeps_its_name() {
        let mut names_given = SrvNames::default();
        let _ = names_given.servers(vec![record("web-0.web", 80, &["10.0.0.9"])]);
        let servers = names_given.servers(vec![record("web-0.web", 80, &["10.0.0.1"])]);
        assert_eq!(names(&servers), [("web-0", "10.0.0.1:80".to_owned())]);
    }

    #[test]
    fn equal_labels_get_longer_names_that_stay() {
        let mut given = SrvNames::default();
        let one = record("web.rack1", 80, &["10.0.0.1"]);
        let two = record("web.rack2", 80, &["10.0.0.2"]);
        let other_port = record("web.rack2", 81, &["10.0.0.2"]);
        let servers = given.servers(vec![one, two.clone(), other_port]);
        let all: Vec<_> = servers.iter().map(|server| server.id.as_str()).collect();
        assert_eq!(all, ["web", "web.rack2", "web.rack2:81"]);
        // Without the other record, the name would be `web`.
        assert_eq!(names(&given.servers(vec![two]))[0].0, "web.rack2");
    }

    #[test]
    fn every_address_of_a_target_is_a_server() {
        let mut given = SrvNames::default();
        let servers = given.servers(vec![record("db.site", 1, &["10.0.0.2", "10.0.0.1"])]);
        let all: Vec<_> = servers.iter().map(|server| server.id.as_str()).collect();
        assert_eq!(all, ["db", "db-10.0.0.2"]);
        // The address that has the name keeps it.
        let servers = given.servers(vec![record("db.site", 1, &["10.0.0.0", "10.0.0.1"])]);
        let all: Vec<_> = servers.iter().map(|server| server.id.as_str()).collect();
        assert_eq!(all, ["db-10.0.0.0", "db"]);
    }

    #[test]
    fn weight_and_priority_are_used() {
        let mut preferred = record("a.site", 1, &["10.0.0.1"]);
        preferred.weight = 7;
        let mut fallback = record("b.site", 1, &["10.0.0.2"]);
        fallback.priority = 10;
        let servers = SrvNames::default().servers(vec![preferred, fallback]);
        assert_eq!(servers[0].weight, Weight::new(7));
        assert_eq!(servers[0].backup, None);
        assert_eq!(servers[1].weight, None, "0: the configured default");
        assert_eq!(servers[1].backup, Some(true));
    }
}
