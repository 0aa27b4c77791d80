//! `[log]`

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::Opt;
use crate::keyword::{AccessFilter, Format, Level};

/// Logging and the access log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "log")]
pub struct RawLog {
    /// The lowest level of messages that are logged.
    #[schemars(extend("default" = "info"))]
    pub level: Opt<Level>,
    /// The format of messages.
    #[schemars(extend("default" = "text"))]
    pub format: Opt<Format>,
    /// Where the access log is written: "stdout", "stderr", "off" or a file. It has one JSON
    /// object per connection.
    #[schemars(extend("default" = "stdout"))]
    pub access: Opt<String>,
    /// Which connections are logged. "identified": handshakes that failed before the client
    /// was identified are left out.
    #[schemars(extend("default" = "all"))]
    pub access_filter: Opt<AccessFilter>,
}
