//! Hands the discovered servers over to the successor process in an upgrade. Without them, an
//! upgrade would fail while look-ups fail, although the predecessor knows the servers.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use leastconn::{Address, ServerId, UpstreamId, Weight, ZoneId};
use serde::{Deserialize, Serialize};

use super::{
    Discovery,
    members::FoundServer,
    source::Source,
    srv_names::{NameHandover, SrvNames},
};

/// The servers of all upstreams' sources, as sent to another process, which may have another
/// version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryHandover {
    #[serde(default)]
    sources: Vec<SourceHandover>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceHandover {
    upstream: String,
    /// The kind and location, for example `dns web:80`.
    source: String,
    /// Time since the last answer.
    age_seconds: u64,
    servers: Vec<ServerHandover>,
    /// The names of SRV targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<NameHandover>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ServerHandover {
    name: String,
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    /// 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_conns: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backup: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

impl DiscoveryHandover {
    /// Adds the sources of an upstream that have had an answer.
    pub(in crate::upstream) fn add(
        &mut self,
        upstream: &UpstreamId,
        discovery: &Discovery,
        now: Instant,
    ) {
        let sources = discovery.sources.iter();
        let sources = sources.filter_map(|(_, source)| {
            let (last_answer, servers, names) = source.export()?;
            Some(SourceHandover {
                upstream: upstream.to_string(),
                source: source.kind.to_string(),
                age_seconds: now.saturating_duration_since(last_answer).as_secs(),
                servers: servers.iter().map(export).collect(),
                names,
            })
        });
        self.sources.extend(sources);
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Returns the sources as JSON of less than `limit` bytes. If the JSON would be longer, the
    /// sources with the most servers are left out.
    pub(crate) fn to_json(&self, limit: usize) -> String {
        let mut handover = self.clone();
        loop {
            let json = serde_json::to_string(&handover).unwrap_or_default();
            if json.len() < limit {
                return json;
            }
            let sources = handover.sources.iter().enumerate();
            let Some((largest, source)) = sources.max_by_key(|(_, source)| source.servers.len())
            else {
                return String::new();
            };
            tracing::warn!(
                upstream = source.upstream,
                source = source.source,
                "discovered servers not handed over to the new process: too many"
            );
            handover.sources.swap_remove(largest);
        }
    }

    /// Imports the servers that the predecessor has found for `source`, if the predecessor had a
    /// source of the same kind and location.
    pub(super) fn import_into(&self, upstream: &UpstreamId, source: &Source, now: Instant) {
        let kind = source.kind.to_string();
        let mut sources = self.sources.iter();
        let known = sources.find(|known| {
            known.upstream == upstream.as_str() && known.source == kind && !known.servers.is_empty()
        });
        let Some(known) = known else {
            return;
        };
        let servers = known.servers.iter().filter_map(import).collect();
        let age = Duration::from_secs(known.age_seconds);
        let last_answer = now.checked_sub(age).unwrap_or(now);
        source.import(last_answer, servers, SrvNames::import(&known.names));
    }
}

fn export(server: &FoundServer) -> ServerHandover {
    ServerHandover {
        name: server.id.to_string(),
        address: server.address.to_string(),
        weight: server.weight.map(Weight::get),
        max_conns: server.max_conns.map(|max| max.map_or(0, NonZeroU32::get)),
        backup: server.backup,
        zone: server.zone.as_ref().map(ZoneId::to_string),
    }
}

fn import(server: &ServerHandover) -> Option<FoundServer> {
    let address = server.address.parse::<Address>().ok()?;
    let weight = server.weight.map(u32::from);
    Some(FoundServer {
        weight: weight.and_then(Weight::new),
        max_conns: server.max_conns.map(NonZeroU32::new),
        backup: server.backup,
        zone: server.zone.as_deref().map(ZoneId::from),
        ..FoundServer::new(ServerId::from(server.name.as_str()), address)
    })
}

#[cfg(test)]
mod tests {
    use leastconn::net::now;
    use leastconn_config::{Discovery as Settings, SourceKind};

    use super::*;
    use crate::upstream::discovery::{members::Answer, srv_names::SrvRecord};

    fn servers() -> Vec<FoundServer> {
        let found = |id: &str, address: &str| {
            FoundServer::new(ServerId::from(id), address.parse().unwrap())
        };
        let all = FoundServer {
            weight: Weight::new(7),
            max_conns: Some(NonZeroU32::new(3)),
            backup: Some(true),
            zone: Some(ZoneId::from("a")),
            ..found("web", "10.0.0.1:80")
        };
        let unlimited = FoundServer {
            max_conns: Some(None),
            ..found("web.two", "unix:/run/web.sock")
        };
        vec![all, unlimited, found("[fd00::1]:80", "[fd00::1]:80")]
    }

    fn source() -> Source {
        Source::new(SourceKind::Srv("_http._tcp.site".into()))
    }

    fn exported(source: Source) -> DiscoveryHandover {
        let discovery = Discovery::of_source(source.into(), Settings::default());
        let mut handover = DiscoveryHandover::default();
        handover.add(&"web".into(), &discovery, now());
        handover
    }

    #[test]
    fn servers_and_names_survive_the_handover() {
        let before = source();
        let mut names = SrvNames::default();
        let record = |target: &str| SrvRecord {
            target: target.to_owned(),
            port: 80,
            priority: 0,
            weight: 0,
            addresses: vec!["10.0.0.1".parse().unwrap()],
        };
        let _ = names.servers(vec![record("web.one"), record("web.two")]);
        before.set_names(names);
        let answer = Ok(Answer::complete(servers()));
        assert!(before.record(answer, &Settings::default()).is_answer);
        let json = exported(before).to_json(10_000);

        let handover: DiscoveryHandover = serde_json::from_str(&json).unwrap();
        let after = source();
        handover.import_into(&"other".into(), &after, now());
        assert!(!after.is_answered(), "another upstream");
        handover.import_into(&"web".into(), &after, now());
        assert!(after.is_answered());
        let (_, found, _) = after.export().unwrap();
        assert_eq!(found, servers());
        // `web.two` alone would be named `web`.
        let found = after.names().servers(vec![record("web.two")]);
        assert_eq!(found[0].id.as_str(), "web.two");
    }

    #[test]
    fn source_without_answer_is_not_handed_over() {
        assert_eq!(exported(source()), DiscoveryHandover::default());
    }

    #[test]
    fn largest_source_is_left_out_above_the_limit() {
        let of = |source: &str, count: usize| SourceHandover {
            upstream: "web".to_owned(),
            source: source.to_owned(),
            age_seconds: 0,
            servers: vec![export(&servers()[0]); count],
            names: Vec::new(),
        };
        let handover = DiscoveryHandover {
            sources: vec![of("dns a:1", 10), of("dns b:1", 1)],
        };
        let json = handover.to_json(500);
        let short: DiscoveryHandover = serde_json::from_str(&json).unwrap();
        assert_eq!(short.sources, [of("dns b:1", 1)]);
        assert_eq!(handover.to_json(10), "");
    }
}
