//! `source_rate_limit` of a listener.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Opt;

/// How fast a source may open connections: a token bucket for each network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "source_rate_limit")]
pub struct RawSourceRateLimit {
    /// New connections a second.
    #[schemars(required)]
    pub rate: Opt<f64>,
    /// How many may come at once. Default: the rate, rounded up.
    #[schemars(range(min = 1))]
    pub burst: Opt<u32>,
    /// The bits of an IPv4 address that make a source; 32: each address is one.
    #[schemars(range(min = 1, max = 32), extend("default" = 32))]
    pub prefix_v4: Opt<u32>,
    /// The bits of an IPv6 address that make a source. Within a /64, whoever has one address has all.
    #[schemars(range(min = 1, max = 128), extend("default" = 64))]
    pub prefix_v6: Opt<u32>,
}
