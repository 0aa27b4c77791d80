//! `[process]`

use leastconn_tls::settings;
use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{DurationText, Opt, Workers};
use crate::{
    defaults::{self, text},
    keyword::{Sandbox, Watch},
};

/// What concerns the process as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "process")]
pub struct RawProcess {
    /// Threads that serve connections; "auto": one per CPU.
    #[schemars(extend("default" = "auto"))]
    pub workers: Opt<Workers>,
    /// Connections at once, in the whole process. Default: what the limit of open files allows.
    #[schemars(range(min = 1))]
    pub max_connections: Opt<u32>,
    /// TLS handshakes in progress at once.
    #[schemars(range(min = 1), extend("default" = defaults::MAX_HANDSHAKES))]
    pub max_handshakes: Opt<u32>,
    /// How long open connections may go on once the process was told to stop. "0s": not at all.
    #[schemars(extend("default" = text(defaults::DRAIN_TIMEOUT)))]
    pub drain_timeout: Opt<DurationText>,
    /// Memory in use above which no connections are accepted, and those that hold the most
    /// buffered data are ended. "auto": 80 % of what the cgroup or RLIMIT_AS allows. "off":
    /// none.
    #[schemars(
        regex(pattern = "^(auto|off|[0-9]+(B|KiB|MiB|GiB|TiB))$|\\$\\{"),
        extend("default" = "auto", "examples" = ["512MiB"])
    )]
    pub memory_limit: Opt<String>,
    /// Whether certificate, key, authority and revocation list files are watched, and
    /// loaded anew when they change.
    #[schemars(extend("default" = "on"))]
    pub watch: Opt<Watch>,
    /// What seals and opens TLS records once a handshake is over.
    #[schemars(extend("default" = "direct"))]
    pub tls_records: Opt<TlsRecords>,
    /// Whether the process may only touch the files that it needs (Landlock). "on": it
    /// does not start where the kernel cannot do that. Absent: it goes on with a warning.
    pub sandbox: Opt<Sandbox>,
}

/// What seals and opens TLS records. Clients cannot tell; what it costs differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "tls_records")]
pub enum TlsRecords {
    /// The balancer itself, between the socket's and the relay's buffers.
    #[default]
    Direct,
    /// rustls, by way of buffers of its own.
    Rustls,
}

impl From<TlsRecords> for settings::RecordLayer {
    fn from(word: TlsRecords) -> Self {
        match word {
            TlsRecords::Direct => Self::Direct,
            TlsRecords::Rustls => Self::Rustls,
        }
    }
}
