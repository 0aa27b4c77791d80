//! `GET /api/v1/clients`

use std::cmp::Reverse;

use jiff::Timestamp;
use leastconn_config::{MatchKey, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ApiContext, Outcomes, outcomes, page};
use crate::{
    reason_code::ReasonCode,
    telemetry::metrics::{ClientMetrics, Metrics},
};

/// Client rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Clients {
    /// The rules that match the query, up to its limit.
    pub clients: Vec<Client>,
    /// Number of rules that match the query.
    pub total: usize,
}

/// A client rule and its connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Client {
    /// Name of the rule.
    pub client: String,
    /// Match criteria as `key=value`.
    #[serde(rename = "match")]
    pub matches: Vec<String>,
    /// Allowed upstreams and servers.
    pub allow: Vec<String>,
    /// `enforce` or `shadow`.
    pub mode: String,
    /// Time from which the rule no longer matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Limit on new connections, per identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Limit on open connections, per identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_conns: Option<u32>,
    /// Open connections.
    pub active: u64,
    /// Connections since the start, whether open, refused, failed or ended.
    pub connections: u64,
    /// Connections that were refused: they ended without a server.
    #[serde(default)]
    pub refused: u64,
    /// Connections that ended with a failure after admission.
    #[serde(default)]
    pub failed: u64,
    /// Connections that ended without a failure.
    #[serde(default)]
    pub ended: u64,
    /// Ended connections by reason code.
    pub outcomes: Outcomes,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RateLimit {
    /// Average number of connections per second.
    pub rate: f64,
    /// Maximum burst.
    pub burst: u32,
}

/// Filter, order and limit of a list of rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientsQuery {
    /// Text that the name must contain, ignoring case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// Order of the rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<ClientOrder>,
    /// Maximum number of entries; default 1000, at most 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Order of a list of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientOrder {
    /// In the order of the configuration.
    #[default]
    Configuration,
    /// Most open connections first, then most connections.
    Active,
    /// Expired rules first, then as `active`.
    Attention,
    /// By name.
    Name,
    /// Most connections since the start first.
    Connections,
    /// Most refused connections first.
    Refused,
    /// Most failed connections first.
    Failed,
}

impl Clients {
    pub fn of(cx: &ApiContext, query: &ClientsQuery) -> Self {
        let state = cx.context.snapshot();
        let metrics = &cx.context.telemetry.metrics;
        let search = query.search.as_deref().unwrap_or_default().to_lowercase();
        let mut found: Vec<_> = state
            .config
            .clients
            .iter()
            .filter(|rule| search.is_empty() || rule.name().to_lowercase().contains(&search))
            .collect();
        let total = found.len();
        let limit = page::limit(query.limit);
        match query.sort.unwrap_or_default() {
            ClientOrder::Configuration => {}
            ClientOrder::Name => found.sort_by(|a, b| a.name().cmp(b.name())),
            order => {
                let now = Timestamp::now();
                found = greatest(&found, limit, |rule| {
                    let client = metrics.client(rule.name());
                    order.key(rule, client.as_deref(), now)
                });
            }
        }
        found.truncate(limit);
        let clients = found.iter().map(|rule| Client::of(rule, metrics)).collect();
        Self { clients, total }
    }
}

impl ClientOrder {
    /// Sort key of a rule; the greatest comes first.
    fn key(
        self,
        rule: &Rule<'_>,
        client: Option<&ClientMetrics>,
        now: Timestamp,
    ) -> (bool, u64, u64) {
        let is_expired = rule.expires().is_some_and(|at| at <= now);
        let Some(client) = client else {
            return (self == Self::Attention && is_expired, 0, 0);
        };
        let (open, ended, refused) = (client.open(), client.ended(), client.refused());
        match self {
            Self::Attention => (is_expired, open, ended),
            Self::Configuration | Self::Name | Self::Active => (false, open, ended),
            Self::Connections => (false, open + ended, open),
            Self::Refused => (false, refused, open),
            Self::Failed => {
                let failed = client.outcomes().filter(|(reason, _)| reason.is_failure());
                let failed: u64 = failed.map(|(_, count)| count).sum();
                (false, failed.saturating_sub(refused), open)
            }
        }
    }
}

/// Returns the `limit` items with the greatest keys, greatest first, in stable order. The other
/// items are not sorted, because there may be very many of them.
fn greatest<T: Copy, K: Ord>(all: &[T], limit: usize, key: impl Fn(&T) -> K) -> Vec<T> {
    let numbered = all.iter().enumerate();
    let mut order: Vec<_> = numbered
        .map(|(number, one)| (Reverse(key(one)), number))
        .collect();
    if limit < order.len() {
        order.select_nth_unstable(limit);
        order.truncate(limit);
    }
    order.sort_unstable();
    order.into_iter().map(|(_, number)| all[number]).collect()
}

impl Client {
    fn of(rule: &Rule<'_>, metrics: &Metrics) -> Self {
        let texts = MatchKey::TEXTS.into_iter().flat_map(|key| {
            rule.texts(key)
                .map(move |text| format!("{}={text}", key.as_str()))
        });
        let sources = rule.sources().iter().map(|net| format!("source={net}"));
        let limits = rule.limits();
        let counted = metrics.client(rule.name());
        let counted = counted.as_deref();
        let active = counted.map_or(0, ClientMetrics::open);
        // Read the refusals before the outcomes: they must not exceed the number of ended
        // connections.
        let refused = counted.map_or(0, ClientMetrics::refused);
        let outcomes = outcomes(counted.into_iter().flat_map(ClientMetrics::outcomes));
        let of = |failures: bool| -> u64 {
            let of = ReasonCode::ALL
                .iter()
                .filter(|reason| reason.is_failure() == failures);
            of.filter_map(|reason| outcomes.get(reason.as_str())).sum()
        };
        let (failures, ended) = (of(true), of(false));
        Self {
            client: rule.name().to_owned(),
            matches: texts.chain(sources).collect(),
            allow: rule.allow().iter().map(ToString::to_string).collect(),
            mode: rule.mode().as_str().to_owned(),
            expires: rule.expires().map(|at| at.to_string()),
            rate_limit: limits.rate.map(|limit| RateLimit {
                rate: limit.per_second(),
                burst: limit.burst().get(),
            }),
            max_conns: limits.max_conns.map(std::num::NonZero::get),
            active,
            connections: active + failures + ended,
            refused,
            failed: failures.saturating_sub(refused),
            ended,
            outcomes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn greatest_matches_a_stable_sort(
            counts in prop::collection::vec((0_u64..3, 0_u64..3), 0..50),
            limit in 0_usize..60,
        ) {
            let all: Vec<_> = (0..counts.len()).collect();
            let found = greatest(&all, limit, |&number| counts[number]);
            let mut sorted = all;
            sorted.sort_by_key(|&number| Reverse(counts[number]));
            sorted.truncate(limit);
            prop_assert_eq!(found, sorted);
        }
    }
}
