//! `[process]`

use leastconn_tls::settings;
use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{DurationText, Opt, Workers};
use crate::{
    defaults::{self, text},
    keyword::{Sandbox, Watch},
};

/// Settings of the whole process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "process")]
pub struct RawProcess {
    /// Threads that serve connections. "auto": one per CPU.
    #[schemars(extend("default" = "auto"))]
    pub workers: Opt<Workers>,
    /// Maximum number of open client connections in the process. Default: what the limit on
    /// open files allows.
    #[schemars(range(min = 1))]
    pub max_connections: Opt<u32>,
    /// Maximum number of TLS handshakes in progress.
    #[schemars(range(min = 1), extend("default" = defaults::MAX_HANDSHAKES))]
    pub max_handshakes: Opt<u32>,
    /// How long open connections may continue after a request to stop. "0s": they are closed
    /// immediately.
    #[schemars(extend("default" = text(defaults::DRAIN_TIMEOUT)))]
    pub drain_timeout: Opt<DurationText>,
    /// Memory use above which no connections are accepted, and the connections with the most
    /// buffered data are closed. "auto": 80 % of what the cgroup or RLIMIT_AS allows. "off":
    /// no limit.
    #[schemars(
        regex(pattern = "^(auto|off|[0-9]+(B|KiB|MiB|GiB|TiB))$|\\$\\{"),
        extend("default" = "auto", "examples" = ["512MiB"])
    )]
    pub memory_limit: Opt<String>,
    /// The balancer's zone. Servers in the same zone are preferred. "": none.
    #[schemars(extend("default" = "", "examples" = ["eu-west-1a"]))]
    pub zone: Opt<String>,
    /// Whether certificate, key, CA and CRL files are watched and loaded again when they
    /// change.
    #[schemars(extend("default" = "on"))]
    pub watch: Opt<Watch>,
    /// The implementation that encrypts and decrypts TLS records after the handshake.
    #[schemars(extend("default" = "direct"))]
    pub tls_records: Opt<TlsRecords>,
    /// Whether the process restricts itself to the files that it needs (Landlock). "on": the
    /// process does not start if the kernel lacks support. Default: it starts and logs a warning.
    pub sandbox: Opt<Sandbox>,
}

/// The implementation that encrypts and decrypts TLS records. Clients see no difference; only the
/// cost differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "tls_records")]
pub enum TlsRecords {
    /// The balancer, directly between the socket and the relay's buffers.
    #[default]
    Direct,
    /// rustls, through its own buffers.
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
