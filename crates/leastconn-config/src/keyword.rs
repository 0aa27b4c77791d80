//! Values that are one of a fixed set of words, such as `mode = "shadow"`. The file and
//! the checked configuration use the same type.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether files are loaded anew when they change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "watch")]
pub enum Watch {
    /// They are.
    #[default]
    On,
    /// Only when the whole configuration is.
    Off,
}

/// Whether the process confines itself to what its configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "sandbox")]
pub enum Sandbox {
    /// It does, or does not start.
    On,
    /// It does not.
    Off,
}

/// The importance of a message.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "level")]
pub enum Level {
    /// What broke.
    Error,
    /// And what may break.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
    /// And everything else.
    Trace,
}

impl Level {
    /// Each of them, the most important messages first.
    pub const ALL: [Self; 5] = [
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "format")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whose lines are in the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "access_filter")]
pub enum AccessFilter {
    /// One line for every connection.
    #[default]
    All,
    /// Only of clients that were identified: none of handshakes that failed before.
    Identified,
}

/// What happens when a certificate expires during its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "on_expiry")]
pub enum OnExpiry {
    /// The connection is closed.
    #[default]
    Close,
    /// It goes on.
    Keep,
}

/// How the end of a TLS stream without `close_notify` is passed on to the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "on_truncation")]
pub enum OnTruncation {
    /// By a reset, once all data has been delivered.
    #[default]
    Reset,
    /// As an orderly end.
    Close,
}

impl From<OnTruncation> for leastconn::net::OnTruncation {
    fn from(policy: OnTruncation) -> Self {
        match policy {
            OnTruncation::Reset => Self::Reset,
            OnTruncation::Close => Self::Close,
        }
    }
}

/// Whether clients ask for TLS in their own protocol before the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "starttls")]
pub enum StartTls {
    /// They do not.
    #[default]
    Off,
    /// As PostgreSQL's clients do (SSLRequest).
    Postgres,
}

/// Whether a rule decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "mode")]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It only says what it would have decided.
    Shadow,
}

impl Mode {
    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}
