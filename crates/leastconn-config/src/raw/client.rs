//! `[[client]]` and `[defaults.client]`

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{DateTime, OneOrMany, Opt};
use crate::{clients::MatchKey, keyword::Mode};

/// A rule for clients: whom it matches, what they may reach, and their limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "client")]
pub struct RawClient {
    /// The rule's name in logs, metrics and `ctl`.
    #[schemars(required)]
    pub name: Opt<String>,
    /// Which clients match. All keys must match; for a list, one entry must match.
    #[schemars(required)]
    pub r#match: Opt<RawMatch>,
    /// The upstreams ("web") or single servers ("web/webapp2") that the client may reach.
    #[schemars(required)]
    pub allow: Opt<OneOrMany>,
    /// Limit on new connections per client identity. Default: no limit.
    pub rate_limit: Opt<RawRateLimit>,
    /// Maximum number of open connections per client identity. Default: no limit.
    #[schemars(
        range(min = 1),
        extend("x-leastconn-if-zero" = "to refuse a client, set `allow = []`")
    )]
    pub max_conns: Opt<u32>,
    /// The time at which the rule stops matching clients, with an offset from UTC. Default: never.
    pub expires: Opt<DateTime>,
    /// Whether quiet connections of the client may be closed to rebalance the servers. See
    /// `rebalance` of the upstream.
    #[schemars(extend("default" = false))]
    pub rebalance: Opt<bool>,
    /// Whether the rule is enforced, or its decision is only logged.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Opt<Mode>,
}

/// Which clients a rule matches.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "match", extend("minProperties" = 1))]
pub struct RawMatch {
    /// The common name of the certificate. `*` matches one whole label.
    #[schemars(extend("examples" = ["client1.lb.com"]))]
    pub cn: Opt<OneOrMany>,
    /// An organizational unit (OU) of the certificate, compared literally.
    #[schemars(extend("examples" = ["payments"]))]
    pub ou: Opt<OneOrMany>,
    /// A DNS name of the certificate (SAN). `*` matches one whole label.
    #[schemars(extend("examples" = ["*.clients.lb.com"]))]
    pub dns: Opt<OneOrMany>,
    /// A URI of the certificate (SAN). `*` matches one whole path segment, and `**` at the end
    /// the rest.
    #[schemars(extend("examples" = ["spiffe://example.org/ns/*/sa/web", "https://example.org/users/*"]))]
    pub uri: Opt<OneOrMany>,
    /// The SHA-256 of the certificate's public key (SubjectPublicKeyInfo), in hexadecimal.
    pub spki: Opt<OneOrMany>,
    /// The common name of the certificate's issuer, compared literally.
    pub issuer_cn: Opt<OneOrMany>,
    /// The client's IP address: an address or a network in CIDR notation.
    #[schemars(extend("examples" = ["10.0.0.0/8", ["127.0.0.1", "::1"]]))]
    pub source: Opt<OneOrMany>,
}

impl RawMatch {
    pub(crate) const fn get(&self, key: MatchKey) -> &Opt<OneOrMany> {
        match key {
            MatchKey::Cn => &self.cn,
            MatchKey::Dns => &self.dns,
            MatchKey::Uri => &self.uri,
            MatchKey::Spki => &self.spki,
            MatchKey::Ou => &self.ou,
            MatchKey::IssuerCn => &self.issuer_cn,
            MatchKey::Source => &self.source,
        }
    }
}

/// Limit on new connections: a token bucket per client identity.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "rate_limit")]
pub struct RawRateLimit {
    /// New connections per second.
    #[schemars(required)]
    pub rate: Opt<f64>,
    /// Maximum number of new connections in a burst. Default: the rate, rounded up.
    #[schemars(range(min = 1))]
    pub burst: Opt<u32>,
}

/// Defaults for keys that other tables omit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "defaults")]
pub struct RawDefaults {
    /// Defaults for `[[client]]` tables.
    pub client: Option<RawClientDefaults>,
}

/// Defaults for `[[client]]` tables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "client_defaults")]
pub struct RawClientDefaults {
    /// Limit on new connections per client identity.
    pub rate_limit: Opt<RawRateLimit>,
    /// Maximum number of open connections per client identity.
    #[schemars(range(min = 1))]
    pub max_conns: Opt<u32>,
}
