//! `[admin]`

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{At, Opt};

/// The admin interface: dashboard, API, metrics, health checks and `ctl`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "admin")]
pub struct RawAdmin {
    /// Address and port. Everyone who can connect can read everything that it shows: use a loopback
    /// address.
    #[schemars(extend("examples" = ["127.0.0.1:9901"]))]
    pub bind: Opt<String>,
    /// A UNIX socket for `ctl`, mode 0600. Every user who can open it can change everything.
    #[schemars(extend("examples" = ["leastconn.sock"]))]
    pub socket: Opt<String>,
    /// A file with the bearer token that authorizes requests to `bind` to make changes. Without it,
    /// only requests to `socket` can make changes.
    #[schemars(extend("examples" = ["admin.token"]))]
    pub token: Opt<String>,
    /// Host names that requests to `bind` may use, in addition to `localhost` and IP addresses.
    #[schemars(extend("examples" = [["lb.internal"]]))]
    pub hosts: Opt<Vec<At<String>>>,
}
