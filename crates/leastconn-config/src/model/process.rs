//! `[process]`

use std::{num::NonZeroUsize, time::Duration};

use leastconn_tls::settings::RecordLayer;

use crate::keyword::{Sandbox, Watch};

/// `[process]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub workers: NonZeroUsize,
    /// Whether `workers` was derived from the number of CPUs.
    pub auto_workers: bool,
    /// `None`: what the limit on open files allows.
    pub max_connections: Option<NonZeroUsize>,
    pub max_handshakes: NonZeroUsize,
    /// How long open connections may continue after a request to stop.
    pub drain_timeout: Duration,
    pub memory_limit: MemoryLimit,
    pub watch: Watch,
    pub tls_records: RecordLayer,
    /// `None`: as far as the kernel supports it.
    pub sandbox: Option<Sandbox>,
}

/// Memory use above which no connections are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// 80 % of what the cgroup and the limits of the process allow.
    #[default]
    Auto,
    Off,
    /// Bytes of resident memory. The limits of the process apply as with `Auto`.
    Bytes(u64),
}
