//! `GET /api/v1/refusals`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext,
    page::{contains, page},
};
use crate::telemetry::refusals::{KEPT, RecentRefusal};

/// Recently refused connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusals {
    /// Newest first.
    pub refusals: Vec<RecentRefusal>,
    /// Number of stored refusals that match the query.
    pub total: usize,
    /// With `latest`: the newest stored refusal of each reason code, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latest: Vec<RecentRefusal>,
}

/// Filter and limit of a list of refusals.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RefusalsQuery {
    /// Text that an address, name, reason or detail must contain, ignoring case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// Maximum number of entries; default: all stored refusals (at most 200).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Adds the newest stored refusal of each reason code, whether it matches `search` or not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub latest: bool,
}

impl Refusals {
    pub fn of(cx: &ApiContext, query: &RefusalsQuery) -> Self {
        let kept = cx.context.telemetry.refusals.newest_first();
        let latest = if query.latest {
            latest(&kept)
        } else {
            Vec::new()
        };
        let matching = kept.into_iter().filter(|refusal| {
            let search = query.search.as_deref();
            search.is_none_or(|search| contains(texts(refusal), search))
        });
        let (refusals, total) = page(matching, query.limit.unwrap_or(KEPT));
        Self {
            refusals,
            total,
            latest,
        }
    }
}

/// The newest refusal of each reason code.
fn latest(newest_first: &[RecentRefusal]) -> Vec<RecentRefusal> {
    let mut latest: Vec<RecentRefusal> = Vec::new();
    for refusal in newest_first {
        if latest.iter().all(|one| one.outcome != refusal.outcome) {
            latest.push(refusal.clone());
        }
    }
    latest
}

fn texts(refusal: &RecentRefusal) -> impl Iterator<Item = &String> {
    let optional = [
        &refusal.proxy,
        &refusal.client,
        &refusal.identity,
        &refusal.subject,
        &refusal.issuer,
        &refusal.serial,
        &refusal.sni,
        &refusal.detail,
    ];
    [&refusal.listener, &refusal.source, &refusal.outcome]
        .into_iter()
        .chain(optional.into_iter().flatten())
        .chain(&refusal.names)
}
