//! File descriptors: as many as the system gives, and no more connections than
//! they are enough for.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For listeners, logs, the admin side, health checks, the runtime itself.
const RESERVE: u64 = 64;

/// Each connection has two sockets.
const PER_CONNECTION: u64 = 2;

/// Raises the soft limit to the hard one, as servers do: the soft limit of
/// 1,024 that most systems start with is for programs that use `select`.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// How many connections may be open at once: what was asked for, or what the
/// limit of open files is enough for.
pub fn max_connections(configured: Option<NonZeroUsize>) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fits = limit.saturating_sub(RESERVE) / PER_CONNECTION;
    // What a semaphore can count.
    let most = tokio::sync::Semaphore::MAX_PERMITS;
    let fits = usize::try_from(fits).unwrap_or(most).clamp(1, most);
    let Some(configured) = configured.map(NonZeroUsize::get) else {
        return fits;
    };
    if configured > fits {
        tracing::warn!(
            max_connections = configured,
            open_files = limit,
            enough_for = fits,
            "max_connections is more than the limit of open files is enough for: raise it (systemd: LimitNOFILE, docker: --ulimit nofile)"
        );
    }
    configured.min(most)
}
