//! The servers of this process, by key.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use leastconn::{Member, Pool, Server, SlotGrant, UpstreamId};
use leastconn_fleet::ServerKey;

/// Where the servers of this process are found.
pub trait Upstreams: fmt::Debug + Send + Sync {
    fn each_pool(&self, visit: &mut dyn FnMut(&Pool));

    /// Servers that are no longer members of a pool, but still have connections.
    fn departed(&self) -> Vec<(UpstreamId, Arc<Server>)>;
}

/// The servers with one key: the present member, and servers of this name that left the pool or
/// had another address, and still have connections.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) key: ServerKey,
    pub(super) member: Option<Arc<Server>>,
    pub(super) max_conns: Option<NonZeroU32>,
    /// Connections that wait in the queue of the upstream.
    pub(super) waiting: u32,
    departed: Vec<Arc<Server>>,
}

impl Listed {
    const fn new(key: ServerKey) -> Self {
        Self {
            key,
            member: None,
            max_conns: None,
            waiting: 0,
            departed: Vec::new(),
        }
    }

    pub(super) fn departed_in_flight(&self) -> u32 {
        let departed = self.departed.iter().map(|server| server.in_flight());
        departed.fold(0, u32::saturating_add)
    }

    pub(super) fn in_flight(&self) -> u32 {
        let member = self.member.as_ref();
        let member = member.map_or(0, |server| server.in_flight());
        member.saturating_add(self.departed_in_flight())
    }

    pub(super) fn dials(&self) -> u64 {
        let all = self.departed.iter().chain(&self.member);
        all.map(|server| server.dials()).sum()
    }

    pub(super) fn shortages(&self) -> u64 {
        let member = self.member.as_ref();
        member.map_or(0, |server| server.slot_shortages())
    }

    pub(super) fn set_external_load(&self, connections: u32, echo_per_dial: f64) {
        if let Some(member) = &self.member {
            member.set_external_load(connections, echo_per_dial);
        }
    }

    /// Limits the connections to all servers of this key. Returns the number of connections in
    /// flight.
    pub(super) fn set_slots(&self, grant: Option<SlotGrant>, now: Instant) -> u32 {
        let departed = self.departed_in_flight();
        let Some(member) = &self.member else {
            return departed;
        };
        let grant = grant.map(|grant| {
            let mut rest = grant;
            rest.slots = grant.slots.saturating_sub(departed);
            rest.expired_slots = grant.expired_slots.saturating_sub(departed);
            rest
        });
        member.set_slots(grant, now).saturating_add(departed)
    }
}

/// The servers of this process.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    servers: Vec<Listed>,
    /// The keys of the members of each upstream. Hashing all names for each exchange would cost
    /// more than the exchange.
    keys: HashMap<UpstreamId, (Arc<[Member]>, Vec<ServerKey>)>,
}

impl Inventory {
    pub(super) fn servers(&self) -> &[Listed] {
        &self.servers
    }

    pub(super) fn get(&self, key: ServerKey) -> Option<&Listed> {
        let found = self.servers.binary_search_by_key(&key, |listed| listed.key);
        self.servers.get(found.ok()?)
    }

    pub(super) fn update(&mut self, upstreams: &(impl Upstreams + ?Sized)) {
        let mut servers: BTreeMap<ServerKey, Listed> = BTreeMap::new();
        let mut keys = HashMap::new();
        let now = leastconn::net::now();
        upstreams.each_pool(&mut |pool| {
            let members = pool.members();
            let known = self.keys.remove(pool.id());
            let known = known.filter(|(known, _)| Arc::ptr_eq(known, &members));
            let (members, member_keys) = known.unwrap_or_else(|| {
                let keys = members.iter().map(|member| key(pool.id(), &member.server));
                let keys = keys.collect();
                (members, keys)
            });
            let waiting = pool.queue_status(now).waiting;
            let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
            for (member, &key) in members.iter().zip(&member_keys) {
                let listed = Listed {
                    member: Some(Arc::clone(&member.server)),
                    max_conns: member.max_conns,
                    waiting,
                    ..Listed::new(key)
                };
                servers.insert(key, listed);
            }
            keys.insert(pool.id().clone(), (members, member_keys));
        });
        for (upstream, server) in upstreams.departed() {
            let key = key(&upstream, &server);
            let listed = servers.entry(key).or_insert_with(|| Listed::new(key));
            listed.departed.push(server);
        }
        self.keys = keys;
        self.servers = servers.into_values().collect();
    }
}

fn key(upstream: &UpstreamId, server: &Server) -> ServerKey {
    ServerKey::new(upstream.as_str(), server.id().as_str())
}
