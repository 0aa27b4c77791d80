//! File descriptors: as many as the system gives, and no more connections than
//! they are enough for.

use std::num::NonZeroUsize;

use leastconn::net::relay::MAX_PIPES;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For listeners, logs, the admin side, health checks, the runtime itself, and
/// the pipes through which connections are spliced.
const RESERVE: u64 = 64 + 2 * MAX_PIPES as u64;

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

/// How many connections may be open at once: what was asked for, but never more
/// than the limit of open files is enough for. Without the reserve it would be
/// clients who decide whether the admin side, the health checks and the
/// connections to servers get a descriptor.
pub fn max_connections(configured: Option<NonZeroUsize>) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fits = fits(limit);
    let Some(configured) = configured.map(NonZeroUsize::get) else {
        return fits;
    };
    if configured > fits {
        tracing::warn!(
            max_connections = configured,
            open_files = limit,
            instead = fits,
            "max_connections is lowered to what the limit of open files is enough for: raise that limit (systemd: LimitNOFILE, docker: --ulimit nofile)"
        );
    }
    configured.min(fits)
}

/// Connections for which `limit` open files are enough.
fn fits(limit: u64) -> usize {
    // What a semaphore can count.
    let most = tokio::sync::Semaphore::MAX_PERMITS;
    let fits = limit.saturating_sub(RESERVE) / PER_CONNECTION;
    usize::try_from(fits).unwrap_or(most).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_a_connection_after_the_reserve() {
        assert_eq!(fits(1024), 448);
        assert_eq!(fits(130), 1);
        assert_eq!(fits(0), 1, "none would be a balancer that serves nobody");
        assert_eq!(fits(u64::MAX), tokio::sync::Semaphore::MAX_PERMITS);
    }

    #[test]
    fn what_is_configured_holds_as_far_as_it_fits() {
        assert_eq!(max_connections(NonZeroUsize::new(2)), 2);
        let most = max_connections(None);
        assert_eq!(max_connections(NonZeroUsize::new(usize::MAX)), most);
    }
}
