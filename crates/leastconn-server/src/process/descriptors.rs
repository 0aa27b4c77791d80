//! File descriptor limit, and the number of connections that it allows.

use std::num::NonZeroUsize;

use leastconn::net::relay::MAX_PIPES;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for listeners, logs, the admin side, health checks, the runtime, and pipes
/// for splicing.
const RESERVE: u64 = 64 + 2 * MAX_PIPES as u64;

/// Sockets per connection.
const PER_CONNECTION: u64 = 2;

/// Raises the soft limit to the hard limit. The usual soft limit of 1,024 is for programs
/// that use `select`.
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
        tracing::warn!(%error, "cannot raise the file descriptor limit");
    }
}

/// Maximum number of open connections: the configured number, but no more than the descriptor limit
/// allows. The reserve keeps clients from using up the descriptors of the admin side and of
/// health checks.
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
            "max_connections lowered to fit the file descriptor limit: raise it (systemd: LimitNOFILE, docker: --ulimit nofile)"
        );
    }
    configured.min(fits)
}

/// The number of connections that `limit` descriptors allow.
fn fits(limit: u64) -> usize {
    // The semaphore that counts open connections cannot have more permits.
    let most = tokio::sync::Semaphore::MAX_PERMITS;
    let fits = limit.saturating_sub(RESERVE) / PER_CONNECTION;
    usize::try_from(fits).unwrap_or(most).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_two_descriptors_each() {
        assert_eq!(fits(1024), 448);
        assert_eq!(fits(130), 1);
        assert_eq!(fits(0), 1, "at least one");
        assert_eq!(fits(u64::MAX), tokio::sync::Semaphore::MAX_PERMITS);
    }

    #[test]
    fn configured_maximum_is_capped() {
        assert_eq!(max_connections(NonZeroUsize::new(2)), 2);
        let most = max_connections(None);
        assert_eq!(max_connections(NonZeroUsize::new(usize::MAX)), most);
    }
}
