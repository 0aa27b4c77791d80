//! `[upstream.discovery]`

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{At, DurationText, Opt};
use crate::{
    defaults::{self, text},
    keyword::{AddressFamily, OnRemoval, StartMode},
};

/// How servers are discovered by `dns`, `srv` and `file`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "discovery")]
pub struct RawDiscovery {
    /// Time between two DNS look-ups, at least one second. It is shorter if the TTL of the
    /// answer is shorter.
    #[schemars(extend("default" = text(defaults::DISCOVERY_REFRESH)))]
    pub refresh: Opt<DurationText>,
    /// How long a server must be missing from all complete answers before it is removed.
    #[schemars(extend("default" = text(defaults::DISCOVERY_HOLD)))]
    pub hold: Opt<DurationText>,
    /// What happens to the connections of a server that was removed.
    #[schemars(extend("default" = "drain"))]
    pub removed: Opt<OnRemoval>,
    /// Maximum number of servers of one `dns`, `srv` or `file`. Further servers are ignored, and an
    /// error is logged.
    #[schemars(range(min = 1, max = 65535), extend("default" = defaults::DISCOVERY_MAX))]
    pub max: Opt<u32>,
    /// DNS servers: IP addresses with or without a port. Default: those in
    /// `/etc/resolv.conf`.
    #[schemars(extend("examples" = [["10.0.0.2:53"]]))]
    pub resolver: Opt<Vec<At<String>>>,
    /// The family of addresses that are looked up.
    #[schemars(extend("default" = "any"))]
    pub family: Opt<AddressFamily>,
    /// "wait": the process is not ready until every source has found at least one server.
    /// "empty": the process is ready without servers.
    #[schemars(extend("default" = "wait"))]
    pub start: Opt<StartMode>,
}
