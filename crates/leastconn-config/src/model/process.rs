//! `[process]`

use std::{num::NonZeroUsize, time::Duration};

use leastconn_tls::settings::RecordLayer;

use crate::keyword::{Sandbox, Watch};

/// `[process]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Threads that serve connections.
    pub workers: NonZeroUsize,
    /// It was left to the machine how many.
    pub auto_workers: bool,
    /// Connections at once; `None`: what the limit of open files allows.
    pub max_connections: Option<NonZeroUsize>,
    /// TLS handshakes in progress at once.
    pub max_handshakes: NonZeroUsize,
    /// How long open connections may go on once the process was told to stop.
    pub drain_timeout: Duration,
    /// Memory in use above which no connections are accepted.
    pub memory_limit: MemoryLimit,
    /// Whether the files of `tls` tables are watched.
    pub watch: Watch,
    /// What seals and opens TLS records once a handshake is over.
    pub tls_records: RecordLayer,
    /// Whether the process confines itself; `None`: as far as the kernel can.
    pub sandbox: Option<Sandbox>,
}

/// Memory in use above which no connections are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// 80 % of what the cgroup and the limits of the process allow.
    #[default]
    Auto,
    /// There is none.
    Off,
    /// Resident memory, in bytes; and as with `Auto`, what the limits of the process allow.
    Bytes(u64),
}
