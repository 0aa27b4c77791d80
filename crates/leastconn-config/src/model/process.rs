//! `[process]`

use std::{num::NonZeroUsize, time::Duration};

use leastconn::ZoneId;
use leastconn_tls::settings::RecordLayer;

use crate::keyword::{Sandbox, Watch};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub workers: NonZeroUsize,
    /// Whether `workers` was derived from the number of CPUs.
    pub auto_workers: bool,
    /// `None`: as many connections as the limit on open files allows.
    pub max_connections: Option<NonZeroUsize>,
    pub max_handshakes: NonZeroUsize,
    /// How long open connections may continue after a request to stop.
    pub drain_timeout: Duration,
    pub memory_limit: MemoryLimit,
    /// The balancer's zone.
    pub zone: Option<ZoneId>,
    pub watch: Watch,
    pub tls_records: RecordLayer,
    /// `None`: the process is restricted, and missing kernel support is not an error.
    pub sandbox: Option<Sandbox>,
}

/// Memory use above which no connections are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// 80 % of the memory that the cgroup and the resource limits of the process allow.
    #[default]
    Auto,
    Off,
    /// Bytes of resident memory. The resource limits of the process apply as well, as with
    /// `Auto`.
    Bytes(u64),
}
