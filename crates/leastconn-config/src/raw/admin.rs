//! `[admin]`

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{At, Opt};

/// The admin side: dashboard, API, metrics, health, `ctl`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "admin")]
pub struct RawAdmin {
    /// Address and port. Whoever reaches it can read everything it shows: keep it on loopback.
    #[schemars(extend("examples" = ["127.0.0.1:9901"]))]
    pub bind: Opt<String>,
    /// A Unix socket for `ctl`, mode 0600. Whoever may open it can change everything.
    #[schemars(extend("examples" = ["leastconn.sock"]))]
    pub socket: Opt<String>,
    /// A file with the bearer token that lets requests to `bind` change something.
    /// Without it, only those to `socket` can.
    #[schemars(extend("examples" = ["admin.token"]))]
    pub token: Opt<String>,
    /// Names, beside `localhost` and addresses, that browsers and others may reach
    /// `bind` by.
    #[schemars(extend("examples" = [["lb.internal"]]))]
    pub hosts: Opt<Vec<At<String>>>,
}
