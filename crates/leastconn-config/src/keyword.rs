//! Values that are one of a fixed set of words, such as `mode = "shadow"`. The raw and the checked
//! configuration share these enums.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether the files of `tls` tables are loaded again when they change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "watch")]
pub enum Watch {
    /// They are loaded again when they change.
    #[default]
    On,
    /// They are loaded only with the configuration.
    Off,
}

/// Whether the process restricts itself to the files that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "sandbox")]
pub enum Sandbox {
    /// It does not start if the kernel lacks support.
    On,
    /// The process is not restricted.
    Off,
}

/// The level of a message.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "level")]
pub enum Level {
    /// Errors only.
    Error,
    /// Also warnings.
    Warn,
    /// Also state changes, such as reloads.
    Info,
    /// Also details for troubleshooting.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The most important level first.
    pub const ALL: [Self; 5] = [
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

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

/// The format of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "format")]
pub enum Format {
    /// Plain text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Which connections are logged in the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "access_filter")]
pub enum AccessFilter {
    /// All connections.
    #[default]
    All,
    /// Only connections whose client was identified. Failed handshakes are left out.
    Identified,
}

/// What happens when a client certificate expires during a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "on_expiry")]
pub enum OnExpiry {
    /// The connection is closed.
    #[default]
    Close,
    /// The connection continues.
    Keep,
}

/// How the connection to the other side ends if a TLS stream ends without `close_notify`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "on_truncation")]
pub enum OnTruncation {
    /// A reset, after all data.
    #[default]
    Reset,
    /// An orderly end, after all data.
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

/// Whether clients request TLS in their own protocol before the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "starttls")]
pub enum StartTls {
    /// Connections start with the TLS handshake.
    #[default]
    Off,
    /// The PostgreSQL protocol (SSLRequest).
    Postgres,
}

/// What happens to the connections of a discovered server that was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "removed")]
pub enum OnRemoval {
    /// They continue.
    #[default]
    Drain,
    /// They are closed after ten seconds.
    Close,
}

/// The family of addresses that DNS discovery looks up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "address_family")]
pub enum AddressFamily {
    /// IPv4 and IPv6.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Whether a process with discovered servers is ready before the first answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "start")]
pub enum StartMode {
    /// The process is not ready until every source has found at least one server.
    #[default]
    Wait,
    /// The process is ready without servers.
    Empty,
}

/// Whether a rule is enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "mode")]
pub enum Mode {
    /// The rule decides.
    #[default]
    Enforce,
    /// The rule's decision is only logged.
    Shadow,
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// How the members of a fleet share limits of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "limits")]
pub enum SharedLimits {
    /// A connection waits for the store only if its client is near a limit.
    #[default]
    Fast,
    /// Every connection of a limited client waits for the store.
    Exact,
    /// Limits are not shared: each member applies them to its own connections.
    Local,
}

impl SharedLimits {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Exact => "exact",
            Self::Local => "local",
        }
    }
}

/// Whether the members of a fleet share connection counts of servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "counts")]
pub enum SharedCounts {
    /// Connections of all members count when a server is picked.
    #[default]
    On,
    /// Only connections of this member count.
    Off,
}
