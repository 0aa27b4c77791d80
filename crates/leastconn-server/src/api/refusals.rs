//! `GET /api/v1/refusals`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Sight;
use crate::telemetry::refusals::{KEPT, RecentRefusal};

/// The connections that were refused last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusals {
    /// The newest first.
    pub refusals: Vec<RecentRefusal>,
    /// How many of those that are kept match the query.
    pub total: usize,
}

/// ConnectionFilter of them, and how many.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RefusalsQuery {
    /// Only those with this in an address, a name, a reason or a detail, in capitals or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// So many at most; all 200 that are kept unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Refusals {
    /// As they are now.
    pub fn of(sight: &Sight, query: &RefusalsQuery) -> Self {
        let search = query.search.as_deref().unwrap_or_default().to_lowercase();
        let limit = query.limit.unwrap_or(KEPT);
        let kept = &sight.context.telemetry.refusals;
        let (refusals, total) = kept.newest(limit, |refusal| {
            search.is_empty() || refusal.mentions(&search)
        });
        Self { refusals, total }
    }
}
