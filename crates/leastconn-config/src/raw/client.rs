//! `[[client]]` and `[defaults.client]`

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{DateTime, OneOrMany, Opt};
use crate::keyword::Mode;

/// A client: who it is, what it may reach, and how much of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "client")]
pub struct RawClient {
    /// Its name in logs, metrics and `ctl`.
    #[schemars(required)]
    pub name: Opt<String>,
    /// Who it is. Several keys must all hold; a list means any of its entries.
    #[schemars(required)]
    pub r#match: Opt<RawMatch>,
    /// What it may reach: upstreams ("web"), or single servers of them ("web/webapp2").
    #[schemars(required)]
    pub allow: Opt<OneOrMany>,
    /// How fast it may open connections. Absent: no limit.
    pub rate_limit: Opt<RawRateLimit>,
    /// Connections it may have at once. Absent: no limit.
    #[schemars(
        range(min = 1),
        extend("x-leastconn-if-zero" = "to refuse a client, empty its `allow`")
    )]
    pub max_conns: Opt<u32>,
    /// From when on its rule matches nobody, with an offset from UTC. Absent: never.
    pub expires: Opt<DateTime>,
    /// Whether its rule decides, or only says what it would have decided.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Opt<Mode>,
}

/// Who a client is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "match", extend("minProperties" = 1))]
pub struct RawMatch {
    /// The certificate's common name; `*` stands for one whole label.
    #[schemars(extend("examples" = ["client1.lb.com"]))]
    pub cn: Opt<OneOrMany>,
    /// One of its organizational units, compared as it is.
    #[schemars(extend("examples" = ["payments"]))]
    pub ou: Opt<OneOrMany>,
    /// A DNS name among its alternative names; `*` stands for one whole label.
    #[schemars(extend("examples" = ["*.clients.lb.com"]))]
    pub dns: Opt<OneOrMany>,
    /// A URI among its alternative names; `*` stands for one whole segment of the path,
    /// and `**` at the end for the rest.
    #[schemars(extend("examples" = ["spiffe://example.org/ns/*/sa/web", "https://example.org/users/*"]))]
    pub uri: Opt<OneOrMany>,
    /// The SHA-256 of its public key (the SubjectPublicKeyInfo), in hexadecimal.
    pub spki: Opt<OneOrMany>,
    /// The common name of its issuer, compared as it is.
    pub issuer_cn: Opt<OneOrMany>,
    /// The address the client connects from: an address or a network in CIDR form.
    #[schemars(extend("examples" = ["10.0.0.0/8", ["127.0.0.1", "::1"]]))]
    pub source: Opt<OneOrMany>,
}

/// How fast a client may open connections: a token bucket for each identity.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "rate_limit")]
pub struct RawRateLimit {
    /// New connections a second.
    #[schemars(required)]
    pub rate: Opt<f64>,
    /// How many may come at once. Default: the rate, rounded up.
    #[schemars(range(min = 1))]
    pub burst: Opt<u32>,
}

/// What other tables leave out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "defaults")]
pub struct RawDefaults {
    /// What `[[client]]` tables leave out.
    pub client: Option<RawClientDefaults>,
}

/// What `[[client]]` tables leave out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "client_defaults")]
pub struct RawClientDefaults {
    /// How fast a client may open connections.
    pub rate_limit: Opt<RawRateLimit>,
    /// Connections a client may have at once.
    #[schemars(range(min = 1))]
    pub max_conns: Opt<u32>,
}
