//! Whose fault a failed connect is: the server's, or the balancer's own.
//!
//! A process that is out of file descriptors fails to connect to anybody. Were
//! that held against the servers, a moment of overload would eject all of them.

use std::io;

/// What a failed connect or probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server, or the way to it, does not work.
    Server,
    /// This host has no local address or port left towards that server; towards
    /// another one it may have.
    Local,
    /// This process or host is out of descriptors or memory, for every server.
    Exhausted,
}

pub(crate) fn fault(error: &io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => Fault::Exhausted,
        Some(libc::EADDRNOTAVAIL) => Fault::Local,
        _ => Fault::Server,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_exhaustion_is_not_a_server_fault() {
        let fault_of = |code| fault(&io::Error::from_raw_os_error(code));
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
            assert_eq!(fault_of(code), Fault::Exhausted, "{code}");
        }
        assert_eq!(fault_of(libc::EADDRNOTAVAIL), Fault::Local);
        for code in [libc::ECONNREFUSED, libc::ETIMEDOUT, libc::EHOSTUNREACH] {
            assert_eq!(fault_of(code), Fault::Server, "{code}");
        }
        assert_eq!(fault(&io::ErrorKind::TimedOut.into()), Fault::Server);
    }
}
