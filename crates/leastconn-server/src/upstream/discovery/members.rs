//! The servers of one source, merged from its answers. Pure: the time is an argument.
//!
//! Answers can be wrong in known ways, so a change of an answer is not always a change of the
//! servers:
//!
//! - An answer without servers changes nothing. DNS servers answer "no such name" while they
//!   restart or lose their own upstream.
//! - A server that is missing from an answer stays a member until it has been missing from
//!   every complete answer for the hold time. DNS servers may return a part of the records,
//!   and readiness of a server may flap.
//! - Only an answer removes servers. While all look-ups fail, the members stay.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use leastconn::{Address, ServerId, Weight, ZoneId};

/// A server in an answer. For `None`, the configured default of the source applies.
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
    /// In a stable order: if there are too many, the first ones become members.
    pub(crate) servers: Vec<FoundServer>,
    /// Whether all parts of the look-up succeeded. Servers are not missing from an incomplete
    /// answer.
    pub(crate) is_complete: bool,
    /// How long the answer may be used without a new look-up, if that is limited.
    pub(crate) ttl: Option<Duration>,
}

/// When members are removed, and how many there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) hold: Duration,
    /// Maximum number of servers that are members because of one answer. There can be as many
    /// again that are missing from it.
    pub(crate) max: usize,
}

/// An answer without servers. It changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer contains no servers")]
pub(crate) struct NoServers;

/// The servers of one source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members(Vec<SourceMember>);

#[derive(Clone, Debug)]
struct SourceMember {
    server: FoundServer,
    /// The time of the first complete answer without the server, if no later answer contains
    /// it.
    missing_since: Option<Instant>,
}

impl Members {
    /// The members, in the order in which they joined.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &FoundServer> {
        self.0.iter().map(|member| &member.server)
    }

    /// Merges an answer. Returns how many servers of the answer exceed `limits.max` and are
    /// ignored.
    ///
    /// # Errors
    /// If the answer contains no servers. The members do not change then.
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
            } else if answer.is_complete {
                member.missing_since.get_or_insert(now);
            }
        }
        if answer.is_complete {
            self.0.retain(|member| {
                member
                    .missing_since
                    .is_none_or(|since| now.saturating_duration_since(since) < limits.hold)
            });
        }
        let mut ignored = 0;
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

    /// The time at which the next member has been missing for `hold`. An answer at that time
    /// removes it.
    pub(crate) fn next_removal(&self, hold: Duration) -> Option<Instant> {
        let missing = self.0.iter().filter_map(|member| member.missing_since);
        missing.min()?.checked_add(hold)
    }
}

#[cfg(test)]
mod tests;
