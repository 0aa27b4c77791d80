//! Classifies connect errors by their cause: the server or the balancer itself.
//!
//! A process that is out of file descriptors cannot connect to any server. If such errors counted
//! as server failures, a short overload would eject all servers.

use std::io;

/// The cause of a failed connect or probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectFault {
    /// The server, or the network path to it, does not work.
    Server,
    /// This host has no local address or port left for connections to this server. Other
    /// servers may still be reachable.
    Local,
    /// This process or host is out of file descriptors or memory, so it cannot connect to any
    /// server.
    Exhausted,
}

impl ConnectFault {
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => Self::Exhausted,
            Some(libc::EADDRNOTAVAIL) => Self::Local,
            _ => Self::Server,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_exhaustion_is_not_a_server_fault() {
        let fault_of = |code| ConnectFault::of(&io::Error::from_raw_os_error(code));
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
            assert_eq!(fault_of(code), ConnectFault::Exhausted, "{code}");
        }
        assert_eq!(fault_of(libc::EADDRNOTAVAIL), ConnectFault::Local);
        for code in [libc::ECONNREFUSED, libc::ETIMEDOUT, libc::EHOSTUNREACH] {
            assert_eq!(fault_of(code), ConnectFault::Server, "{code}");
        }
        assert_eq!(
            ConnectFault::of(&io::ErrorKind::TimedOut.into()),
            ConnectFault::Server
        );
    }
}
