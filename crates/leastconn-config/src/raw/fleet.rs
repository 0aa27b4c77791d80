//! `[fleet]`

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::value::{At, DurationText, Form, Opt, TextOrTable};
use crate::{
    defaults::{self, text},
    keyword::{SharedCounts, SharedLimits},
};

/// Several balancers that act as one through Valkey or Redis: they share client limits,
/// connection counts of servers, and commands of operators.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "fleet")]
pub struct RawFleet {
    /// The name of the fleet. Balancers with the same name and store are one fleet.
    #[schemars(required)]
    pub name: Opt<String>,
    /// The store: a URL, a table with the sentinels of a primary, or a table with nodes of a
    /// cluster.
    #[schemars(required)]
    pub store: Opt<StoreEntry>,
    /// The user name at the store. Default: the store's default user.
    pub user: Opt<String>,
    /// A file with the password of the user.
    #[schemars(extend("examples" = ["valkey.password"]))]
    pub password: Opt<String>,
    /// A file with a secret that all members share. The secret hides client identities from the
    /// store, and signs what operators set.
    #[schemars(required, extend("examples" = ["fleet.secret"]))]
    pub secret: Opt<String>,
    /// PEM file: the authorities (CAs) that may issue the store's certificates. Required for
    /// "rediss://". With a table in `store`, it turns TLS on.
    #[schemars(extend("examples" = ["valkey-ca.crt"]))]
    pub ca: Opt<String>,
    /// The DNS name or IP address that the store's certificates must contain. Default: the host
    /// that is connected to.
    #[schemars(extend("examples" = ["valkey.internal"]))]
    pub server_name: Opt<String>,
    /// PEM file: the certificate that is presented to the store, followed by its
    /// intermediates.
    pub cert: Opt<String>,
    /// PEM file: the private key of that certificate, not encrypted. Default: the file of
    /// `cert`.
    pub key: Opt<String>,
    /// The name of this balancer in the fleet. Default: the host name of the machine.
    #[schemars(extend("examples" = ["lb1", "${HOSTNAME:-}"]))]
    pub member: Opt<String>,
    /// How limits of clients are shared.
    #[schemars(extend("default" = "fast"))]
    pub limits: Opt<SharedLimits>,
    /// Whether connections of other members count when a server is picked.
    #[schemars(extend("default" = "on"))]
    pub counts: Opt<SharedCounts>,
    /// Number of members to assume after the start, until the store has been reached.
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::FLEET_SIZE))]
    pub size: Opt<u32>,
    /// How long after its last exchange a member is removed, from "1s" to "10m".
    #[schemars(extend("default" = text(defaults::GONE_AFTER)))]
    pub gone_after: Opt<DurationText>,
    /// How long a connection near its client's limit waits for the store, at most "250ms".
    #[schemars(extend("default" = text(defaults::ASK_TIMEOUT)))]
    pub ask_timeout: Opt<DurationText>,
}

/// A store that is not a single server. It has either `sentinels` and `primary`, or `cluster`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "store")]
pub struct RawStore {
    /// Addresses of sentinels.
    #[schemars(extend("examples" = [["s1:26379", "s2:26379", "s3:26379"]]))]
    pub sentinels: Opt<Vec<At<String>>>,
    /// The name by which the sentinels know the primary.
    #[schemars(extend("examples" = ["mymaster"]))]
    pub primary: Opt<String>,
    /// The user of the sentinels. Default: their default user.
    pub sentinel_user: Opt<String>,
    /// A file with the password of the sentinels. Default: none.
    #[schemars(extend("examples" = ["sentinel.password"]))]
    pub sentinel_password: Opt<String>,
    /// Addresses of some nodes of a cluster. The remaining nodes are discovered.
    #[schemars(extend("examples" = [["n1:6379", "n2:6379"]]))]
    pub cluster: Opt<Vec<At<String>>>,
}

/// The store: a URL or a table.
#[derive(Debug)]
pub enum StoreEntry {
    Url(String),
    Table(Box<RawStore>),
}

impl<'de> Deserialize<'de> for StoreEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(TextOrTable::new("a URL or a table"))
            .map(|form| match form {
                Form::Text(url) => Self::Url(url),
                Form::Table(table) => Self::Table(table),
            })
    }
}

impl JsonSchema for StoreEntry {
    fn schema_name() -> Cow<'static, str> {
        "store_entry".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {
                    "title": "URL",
                    "description": "A single server: `redis://HOST:PORT`, `rediss://HOST:PORT` with TLS, or `unix:///PATH`.",
                    "type": "string",
                    "examples": ["rediss://valkey.internal:6379"],
                },
                generator.subschema_for::<RawStore>(),
            ],
        })
    }
}
