//! Merges the answers of one source into its servers. Uses no I/O and no clock.
//!
//! A changed answer does not always mean that the servers have changed:
//!
//! - An answer without servers changes nothing. DNS servers answer "no such name" while they
//!   restart or lose their own upstream.
//! - A server that is missing from an answer stays a member until it has been missing from every
//!   answer for the hold time. DNS servers may return only some of the records, and the readiness
//!   of a server may flap.
//! - Only an answer removes servers. While all look-ups fail, the members stay.
//! - If part of a look-up fails, the servers of this part stay ([`UnknownServers`]). Other servers
//!   are removed as usual, so that a part that always fails does not prevent removals.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use leastconn::{Address, ServerId, Weight, ZoneId};

/// A server in an answer. If a field is `None`, the configured default of the source applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundServer {
    /// The name. Unique in an answer.
    pub(crate) id: ServerId,
    pub(crate) address: Address,
    pub(crate) weight: Option<Weight>,
    /// The inner `None` means no limit.
    pub(crate) max_conns: Option<Option<NonZeroU32>>,
    pub(crate) backup: Option<bool>,
    pub(crate) zone: Option<ZoneId>,
}

impl FoundServer {
    pub(crate) fn new(id: ServerId, address: Address) -> Self {
        Self {
            id,
            address,
            weight: None,
            max_conns: None,
            backup: None,
            zone: None,
        }
    }
}

/// The result of a successful look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The servers in a stable order. If the limit is exceeded, the first ones become members.
    pub(crate) servers: Vec<FoundServer>,
    /// Number of further servers that the look-up left out because of `max`.
    pub(crate) omitted: usize,
    /// Servers that may exist although `servers` lacks them, because a part of the look-up
    /// failed.
    pub(crate) unknown: Vec<UnknownServers>,
    /// Why a part of the look-up failed, or why records are not used.
    pub(crate) problem: Option<String>,
    /// How long the answer may be used before a new look-up is needed, if that is limited.
    pub(crate) ttl: Option<Duration>,
}

/// The servers of a part of a look-up that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnknownServers {
    /// All servers with an IPv4 address.
    V4,
    /// All servers with an IPv6 address.
    V6,
    /// The servers of an SRV target that has this name: `web-0`, `web-0-10.0.0.1`.
    Target(String),
}

impl UnknownServers {
    fn include(&self, server: &FoundServer) -> bool {
        match self {
            Self::V4 => matches!(server.address, Address::Ip(address) if address.is_ipv4()),
            Self::V6 => matches!(server.address, Address::Ip(address) if address.is_ipv6()),
            Self::Target(name) => server
                .id
                .as_str()
                .strip_prefix(&**name)
                .is_some_and(|rest| {
                    let address = rest.strip_prefix('-').map(str::parse::<IpAddr>);
                    rest.is_empty() || matches!(address, Some(Ok(_)))
                }),
        }
    }
}

impl Answer {
    /// An answer that contains all servers of the source, and may be used without limit.
    pub(crate) const fn complete(servers: Vec<FoundServer>) -> Self {
        Self {
            servers,
            omitted: 0,
            unknown: Vec::new(),
            problem: None,
            ttl: None,
        }
    }

    fn lacks(&self, server: &FoundServer) -> bool {
        !self.unknown.iter().any(|unknown| unknown.include(server))
    }
}

/// When members are removed, and how many there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long a server must be missing from all complete answers before it is removed.
    pub(crate) hold: Duration,
    /// Maximum number of members from the latest answer. Members that are missing from the answer
    /// do not count, but the total is limited to twice this number.
    pub(crate) max: usize,
}

/// The answer contains no servers. The members do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer contains no servers")]
pub(crate) struct NoServers;

/// The members of one source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members(Vec<SourceMember>);

#[derive(Clone, Debug)]
struct SourceMember {
    server: FoundServer,
    /// The time of the first answer that lacks the server, if no later answer contains it.
    missing_since: Option<Instant>,
}

impl From<Vec<FoundServer>> for Members {
    fn from(servers: Vec<FoundServer>) -> Self {
        let member = |server| SourceMember {
            server,
            missing_since: None,
        };
        Self(servers.into_iter().map(member).collect())
    }
}

impl Members {
    /// Returns the members in the order of joining.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &FoundServer> {
        self.0.iter().map(|member| &member.server)
    }

    /// Merges an answer. Returns how many servers of the answer exceed `limits.max` and are
    /// ignored, including omitted ones.
    ///
    /// # Errors
    /// If the answer contains no servers, in which case the members do not change.
    pub(crate) fn merge(
        &mut self,
        now: Instant,
        answer: &Answer,
        limits: Limits,
    ) -> Result<usize, NoServers> {
        if answer.servers.is_empty() {
            return Err(NoServers);
        }
        let mut found: HashMap<_, _> = answer.servers.iter().map(|s| (&s.id, s)).collect();
        let mut present = 0;
        for member in &mut self.0 {
            if let Some(server) = found.remove(&member.server.id) {
                member.server = server.clone();
                member.missing_since = None;
                present += 1;
            } else if answer.lacks(&member.server) {
                member.missing_since.get_or_insert(now);
            }
        }
        self.0.retain(|member| {
            let is_held = |since| now.saturating_duration_since(since) < limits.hold;
            member.missing_since.is_none_or(is_held) || !answer.lacks(&member.server)
        });
        let mut ignored = answer.omitted;
        for server in &answer.servers {
            if !found.contains_key(&server.id) {
                continue;
            }
            if present >= limits.max || self.0.len() >= limits.max.saturating_mul(2) {
                ignored += 1;
                continue;
            }
            present += 1;
            self.0.push(SourceMember {
                server: server.clone(),
                missing_since: None,
            });
        }
        Ok(ignored)
    }

    /// The next time at which a missing member will have been missing for `hold`. An answer at that
    /// time removes it, unless a part of the look-up fails. The time is in the past if the look-up
    /// of the member's part has failed since then.
    pub(crate) fn next_removal(&self, hold: Duration) -> Option<Instant> {
        let missing = self.0.iter().filter_map(|member| member.missing_since);
        missing.min()?.checked_add(hold)
    }
}

#[cfg(test)]
mod tests;
