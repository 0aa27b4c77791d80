//! Names of servers from SRV records. Uses no I/O and no clock.
//!
//! A server is named after the first label of its target: `web-0` for
//! `web-0.web.default.svc.cluster.local`. Client rules and overrides refer to this name, so it
//! must not change when other records are added or removed. Assigned names are therefore kept.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
};

use leastconn::{Address, ServerId, Weight};

use leastconn_config::names::is_name;
use serde::{Deserialize, Serialize};

use super::members::FoundServer;

/// If there are more names than this, the names of targets that are missing from the answer are
/// dropped, unless their servers are still members.
const MAX_NAMES: usize = 4096;

/// An SRV record and the addresses of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SrvRecord {
    /// In lower case, without the trailing dot.
    pub(super) target: String,
    pub(super) port: u16,
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) addresses: Vec<IpAddr>,
}

type Key = (String, u16);

/// The names assigned to SRV targets.
#[derive(Clone, Debug, Default)]
pub(super) struct SrvNames {
    given: BTreeMap<Key, Given>,
    /// The target that each name is assigned to.
    targets: HashMap<String, Key>,
}

#[derive(Clone, Debug)]
struct Given {
    name: String,
    /// The address of the server that has the name without a suffix.
    address: IpAddr,
    /// The addresses in the last answer that contained this target. Sorted.
    addresses: Vec<IpAddr>,
    /// Whether a server of this target is a member. Members that are missing from the answer may
    /// return, and must then have the same name.
    is_member: bool,
}

/// The name of an SRV target, as sent to another process in an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NameHandover {
    target: String,
    port: u16,
    name: String,
    address: IpAddr,
}

impl SrvNames {
    /// Records which servers are members.
    pub(super) fn set_members<'a>(&mut self, members: impl Iterator<Item = &'a ServerId>) {
        for given in self.given.values_mut() {
            given.is_member = false;
        }
        for member in members {
            let id = member.as_str();
            let of_address = || {
                let (name, address) = id.rsplit_once('-')?;
                let _: IpAddr = address.parse().ok()?;
                self.targets.get(name)
            };
            if let Some(key) = self.targets.get(id).or_else(of_address)
                && let Some(given) = self.given.get_mut(key)
            {
                given.is_member = true;
            }
        }
    }

    /// Removes duplicates, then the records above `most`. Records of members are kept first, then
    /// records with the lowest priority value. Also returns the number of removed records, without
    /// duplicates.
    pub(super) fn limit(&self, records: Vec<SrvRecord>, most: usize) -> (Vec<SrvRecord>, usize) {
        let mut unique: BTreeMap<Key, SrvRecord> = BTreeMap::new();
        for record in records {
            let key = (record.target.clone(), record.port);
            let known = unique.get(&key);
            if known.is_none_or(|known| record.priority < known.priority) {
                unique.insert(key, record);
            }
        }
        let omitted = unique.len().saturating_sub(most);
        if omitted == 0 {
            return (unique.into_values().collect(), 0);
        }
        let is_member = |key: &Key| self.given.get(key).is_some_and(|given| given.is_member);
        let mut records: Vec<_> = unique.into_iter().collect();
        // The sort is stable: records that compare equal stay in the order of targets and ports.
        records.sort_by_key(|(key, record)| (!is_member(key), record.priority));
        records.truncate(most);
        let kept = records.into_iter().map(|(_, record)| record);
        (kept.collect(), omitted)
    }

    /// Returns the servers of an answer: one for each address of each record. The records must be
    /// [free of duplicates](Self::limit).
    pub(super) fn servers(&mut self, records: Vec<SrvRecord>) -> Vec<FoundServer> {
        let first_priority = records.iter().map(|record| record.priority).min();
        if self.given.len() > MAX_NAMES {
            self.forget_absent(&records);
        }
        let mut servers = Vec::new();
        for mut record in records {
            record.addresses.sort_unstable();
            record.addresses.dedup();
            let Some(&lowest) = record.addresses.first() else {
                continue;
            };
            let given = self.give((record.target, record.port), lowest);
            if !record.addresses.contains(&given.address) {
                // The target has moved, for example because a pod of a StatefulSet was restarted.
                given.address = lowest;
            }
            for &address in &record.addresses {
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
            given.addresses = record.addresses;
        }
        servers
    }

    /// The names that were given to a target, one for each port.
    pub(super) fn of_target(&self, target: &str) -> impl Iterator<Item = &str> {
        self.given_to(target).map(|given| &*given.name)
    }

    /// The addresses of a target in the last answer that contained it.
    pub(super) fn addresses_of(&self, target: &str) -> impl Iterator<Item = IpAddr> {
        self.given_to(target)
            .flat_map(|given| given.addresses.iter().copied())
    }

    fn given_to(&self, target: &str) -> impl Iterator<Item = &Given> {
        let ports = (target.to_owned(), 0)..=(target.to_owned(), u16::MAX);
        self.given.range(ports).map(|(_, given)| given)
    }

    /// The names of [members](Self::set_members), for another process.
    pub(super) fn export(&self) -> Vec<NameHandover> {
        let given = self.given.iter().filter(|(_, given)| given.is_member);
        let export = given.map(|((target, port), given)| NameHandover {
            target: target.clone(),
            port: *port,
            name: given.name.clone(),
            address: given.address,
        });
        export.collect()
    }

    pub(super) fn import(handover: &[NameHandover]) -> Self {
        let mut names = Self::default();
        for imported in handover {
            let key = (imported.target.clone(), imported.port);
            let given = Given {
                name: imported.name.clone(),
                address: imported.address,
                addresses: Vec::new(),
                is_member: true,
            };
            names.targets.insert(given.name.clone(), key.clone());
            names.given.insert(key, given);
        }
        names
    }

    /// Drops the names of targets that are neither in `records` nor members.
    fn forget_absent(&mut self, records: &[SrvRecord]) {
        let present = records.iter().map(|record| (&*record.target, record.port));
        let present: HashSet<_> = present.collect();
        self.given.retain(|(target, port), given| {
            given.is_member || present.contains(&(&**target, *port))
        });
        self.targets.retain(|_, key| self.given.contains_key(key));
    }

    fn give(&mut self, key: Key, address: IpAddr) -> &mut Given {
        let Self { given, targets } = self;
        match given.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let name = free_name(targets, entry.key());
                targets.insert(name.clone(), entry.key().clone());
                entry.insert(Given {
                    name,
                    address,
                    addresses: Vec::new(),
                    is_member: false,
                })
            }
        }
    }
}

/// The shortest name for a target that is not assigned to another target.
fn free_name(taken: &HashMap<String, Key>, (target, port): &Key) -> String {
    let label = target.split('.').next().unwrap_or_default();
    let full = format!("{target}:{port}");
    let names = [label, target, &full];
    let is_free = |name: &&&str| is_name(name) && !taken.contains_key(**name);
    let name = names.iter().find(is_free).map_or(&*full, |name| name);
    name.to_owned()
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

    /// The servers of an answer without a limit.
    fn found_in(given: &mut SrvNames, records: Vec<SrvRecord>) -> Vec<FoundServer> {
        let (records, _) = given.limit(records, usize::MAX);
        given.servers(records)
    }

    fn names(servers: &[FoundServer]) -> Vec<(&str, String)> {
        let names = servers.iter();
        names
            .map(|server| (server.id.as_str(), server.address.to_string()))
            .collect()
    }

    #[test]
    fn servers_are_named_after_the_first_label() {
        let servers = found_in(
            &mut SrvNames::default(),
            vec![
                record("web-1.web.svc", 8080, &["10.0.0.2"]),
                record("web-0.web.svc", 80, &["10.0.0.1"]),
            ],
        );
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
        let _ = found_in(
            &mut names_given,
            vec![record("web-0.web", 80, &["10.0.0.9"])],
        );
        let servers = found_in(
            &mut names_given,
            vec![record("web-0.web", 80, &["10.0.0.1"])],
        );
        assert_eq!(names(&servers), [("web-0", "10.0.0.1:80".to_owned())]);
    }

    #[test]
    fn equal_labels_get_longer_names_that_stay() {
        let mut given = SrvNames::default();
        let one = record("web.rack1", 80, &["10.0.0.1"]);
        let two = record("web.rack2", 80, &["10.0.0.2"]);
        let other_port = record("web.rack2", 81, &["10.0.0.2"]);
        let servers = found_in(&mut given, vec![one, two.clone(), other_port]);
        let all: Vec<_> = servers.iter().map(|server| server.id.as_str()).collect();
        assert_eq!(all, ["web", "web.rack2", "web.rack2:81"]);
        // Without the other record, the name would be `web`.
        assert_eq!(names(&found_in(&mut given, vec![two]))[0].0, "web.rack2");
    }

    #[test]
    fn every_address_of_a_target_is_a_server() {
        let mut given = SrvNames::default();
        let servers = found_in(
            &mut given,
            vec![record("db.site", 1, &["10.0.0.2", "10.0.0.1"])],
        );
        let all: Vec<_> = servers.iter().map(|server| server.id.as_str()).collect();
        assert_eq!(all, ["db", "db-10.0.0.2"]);
        // The address that has the name keeps it.
        let servers = found_in(
            &mut given,
            vec![record("db.site", 1, &["10.0.0.0", "10.0.0.1"])],
        );
        let all: Vec<_> = servers.iter().map(|server| server.id.as_str()).collect();
        assert_eq!(all, ["db-10.0.0.0", "db"]);
    }

    #[test]
    fn weight_and_priority_are_used() {
        let mut preferred = record("a.site", 1, &["10.0.0.1"]);
        preferred.weight = 7;
        let mut fallback = record("b.site", 1, &["10.0.0.2"]);
        fallback.priority = 10;
        let servers = found_in(&mut SrvNames::default(), vec![preferred, fallback]);
        assert_eq!(servers[0].weight, Weight::new(7));
        assert_eq!(servers[0].backup, None);
        assert_eq!(servers[1].weight, None, "0: the configured default");
        assert_eq!(servers[1].backup, Some(true));
    }

    #[test]
    fn records_of_members_are_kept_before_others() {
        let mut given = SrvNames::default();
        let record = |number: usize, priority| SrvRecord {
            priority,
            ..record(&format!("web-{number}.site"), 80, &["10.0.0.1"])
        };
        let first = found_in(&mut given, vec![record(8, 5), record(9, 5)]);
        let ids = first.iter().map(|server| &server.id);
        given.set_members(ids.take(1));
        let all = (0..10).map(|number| record(number, 5)).rev();
        let backup = record(3, 9);
        let all = [record(9, 1)].into_iter().chain(all).chain([backup]);
        let (kept, omitted) = given.limit(all.collect(), 4);
        let kept: Vec<_> = kept.iter().map(|record| &*record.target).collect();
        // First the member, then the lowest priority value, then the order of names.
        assert_eq!(
            kept,
            ["web-8.site", "web-9.site", "web-0.site", "web-1.site"]
        );
        assert_eq!(omitted, 6);
    }

    #[test]
    fn names_above_the_limit_stay_only_for_members() {
        let mut given = SrvNames::default();
        let answer = |target: &str| {
            (0..=MAX_NAMES)
                .map(|number| record(&format!("{target}{number}.site"), 80, &["10.0.0.1"]))
                .collect::<Vec<_>>()
        };
        let held = record("held.one", 80, &["10.0.0.1", "10.0.0.2"]);
        // The server at the second address is a member, and the one at the first is not.
        found_in(&mut given, vec![held.clone()]);
        found_in(&mut given, answer("a"));
        given.set_members([ServerId::from("held-10.0.0.2")].iter());
        found_in(&mut given, answer("b"));
        // The names of `a` are free again, but that of `held` is not.
        assert_eq!(given.given.len(), MAX_NAMES + 2);
        assert_eq!(given.targets.len(), given.given.len());
        let other = record("held.two", 80, &["10.0.0.3"]);
        let found = found_in(&mut given, vec![other, held]);
        let all: Vec<_> = found.iter().map(|server| server.id.as_str()).collect();
        assert_eq!(all, ["held", "held-10.0.0.2", "held.two"]);
    }

    #[test]
    fn thousands_of_equal_labels_take_little_time() {
        // Each of the targets searches for a free name.
        let records = (0..4_000).map(|n| record(&format!("web.rack{n}"), 80, &["10.0.0.1"]));
        let started = leastconn::net::now();
        let found = found_in(&mut SrvNames::default(), records.collect());
        assert_eq!(found.len(), 4_000);
        // With quadratic work, a debug build takes several seconds.
        assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    }
}
