//! `[log]`

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::Opt;
use crate::keyword::{AccessFilter, Format, Level};

/// What is logged, how and where.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "log")]
pub struct RawLog {
    /// The least important messages that are written.
    #[schemars(extend("default" = "info"))]
    pub level: Opt<Level>,
    /// The form of messages.
    #[schemars(extend("default" = "text"))]
    pub format: Opt<Format>,
    /// Where the access log goes: "stdout", "stderr", "off", or a file. One JSON object a connection.
    #[schemars(extend("default" = "stdout"))]
    pub access: Opt<String>,
    /// "identified": the access log leaves out handshakes that failed before the client was known.
    #[schemars(extend("default" = "all"))]
    pub access_filter: Opt<AccessFilter>,
}
