//! Listening sockets inherited from systemd or from a predecessor process.
//!
//! systemd and predecessors pass sockets with the protocol of sd_listen_fds(3): `LISTEN_FDS`
//! descriptors starting at 3, with their names in `LISTEN_FDNAMES`, for the process `LISTEN_PID`. A
//! predecessor cannot set `LISTEN_PID`, because the child's PID is not known before fork, and
//! setting the variable after fork needs unsafe code. Instead, it sets `LEASTCONN_UPGRADE` to its
//! own PID, and the child checks that this is the PID of its parent.
//!
//! A socket is used by the listener that is configured for its address. The name matters only if
//! the configured port is 0.

use std::{
    io, mem,
    net::{SocketAddr, TcpListener},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use listenfd::ListenFd;
use rustix::{
    net::{AddressFamily, SocketType},
    process::getppid,
};
use socket2::SockRef;

use crate::{
    environment::{
        ADMIN, DISCOVERED, LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, OLD, OVERRIDES, PID1,
        PREDECESSOR, SENT_OVERRIDES, UNIX, UPGRADE,
    },
    overrides::OverrideHandover,
    process::upgrade::channel::{self, PredecessorMessage, StartMessage, UnusedSockets},
    upstream::DiscoveryHandover,
};

/// Number of the first passed descriptor.
const FIRST_FD: usize = 3;

/// How long to wait for overrides that the predecessor sends.
const OVERRIDES_TIMEOUT: Duration = Duration::from_secs(10);

/// Sanity limit of `LISTEN_FDS`.
const MAX_FDS: usize = 4096;

/// Inherited descriptors, overrides and discovered servers.
#[derive(Debug, Default)]
pub struct Inherited {
    /// PID of the predecessor.
    replaces: Option<u32>,
    sockets: Vec<Passed>,
    streams: Streams,
    overrides: Option<OverrideHandover>,
    discovered: DiscoveryHandover,
    problems: Vec<String>,
}

/// Sockets to other processes of an upgrade.
#[derive(Debug, Default)]
pub struct Streams {
    /// Socket to the direct predecessor.
    pub old: Option<UnixStream>,
    /// Sockets to older predecessors that are still running.
    pub older: Vec<UnixStream>,
    /// Socket to PID 1 of a container.
    pub pid1: Option<UnixStream>,
}

#[derive(Debug)]
struct Passed {
    name: String,
    socket: Listening,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

impl Inherited {
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes all inherited descriptors. Call this once, before opening files or starting threads,
    /// because descriptor numbers are reused and the environment is changed.
    pub fn take() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        let replaces = variable(UPGRADE).and_then(|old| old.parse().ok());
        let replaces = replaces.filter(|old| Some(*old) == parent);
        let ours = variable(LISTEN_PID).is_some_and(|pid| pid.parse() == Ok(std::process::id()));
        let mut this = Self {
            replaces,
            ..Self::default()
        };
        let overrides = variable(OVERRIDES).filter(|_| this.is_upgrade());
        // Ignore overrides in an unknown format, which may come from another version.
        this.overrides = overrides.and_then(|text| serde_json::from_str(&text).ok());
        let discovered = variable(DISCOVERED).filter(|_| this.is_upgrade());
        let discovered = discovered.and_then(|text| serde_json::from_str(&text).ok());
        this.discovered = discovered.unwrap_or_default();
        let Some(count) = variable(LISTEN_FDS).filter(|_| ours || replaces.is_some()) else {
            return this;
        };
        let names = variable(LISTEN_FDNAMES);
        if !count.parse().is_ok_and(|count: usize| count <= MAX_FDS) {
            this.problems.push(format!(
                "invalid LISTEN_FDS={count}: inherited sockets are ignored"
            ));
            return this;
        }
        let mut passed = ListenFd::from_env();
        let names = names_of(names.as_deref(), passed.len());
        for (number, name) in names.into_iter().enumerate() {
            if let Err(error) = this.keep(&mut passed, number, &name) {
                let descriptor = number + FIRST_FD;
                this.problems.push(format!(
                    "inherited descriptor {descriptor} (`{name}`) is ignored: {error}"
                ));
            }
        }
        if variable(SENT_OVERRIDES).is_some() {
            this.receive_overrides();
        }
        this
    }

    /// Receives overrides that are too large for the environment.
    fn receive_overrides(&mut self) {
        let Some(old) = &self.streams.old else {
            return;
        };
        match channel::receive_first(old, OVERRIDES_TIMEOUT) {
            Ok(PredecessorMessage::Overrides(overrides)) => self.overrides = Some(overrides),
            Ok(PredecessorMessage::Go { .. }) => {}
            Err(error) => {
                let problem = format!("overrides not received from the predecessor: {error}");
                self.problems.push(problem);
            }
        }
    }

    fn keep(&mut self, passed: &mut ListenFd, number: usize, name: &str) -> io::Result<()> {
        let mut stream = || -> io::Result<Option<UnixStream>> {
            let family = i32::from(AddressFamily::UNIX.as_raw());
            let kind = SocketType::STREAM.as_raw();
            let kind = i32::try_from(kind).map_err(io::Error::other)?;
            passed.take_custom(number, family, kind, "UNIX stream")
        };
        match name {
            OLD if self.is_upgrade() => self.streams.old = stream()?,
            PREDECESSOR if self.is_upgrade() => self.streams.older.extend(stream()?),
            PID1 if self.is_upgrade() => self.streams.pid1 = stream()?,
            _ => {
                let socket = listening(passed, number)?;
                self.sockets.extend(socket.map(|socket| Passed {
                    name: name.to_owned(),
                    socket,
                }));
            }
        }
        Ok(())
    }

    /// Whether this process was started for an upgrade.
    pub const fn is_upgrade(&self) -> bool {
        self.replaces.is_some()
    }

    /// PID of the predecessor.
    pub const fn replaces(&self) -> Option<u32> {
        self.replaces
    }

    /// Overrides of the predecessor.
    pub(crate) const fn overrides(&self) -> Option<&OverrideHandover> {
        self.overrides.as_ref()
    }

    /// The servers that the predecessor has discovered.
    pub(crate) const fn discovered(&self) -> &DiscoveryHandover {
        &self.discovered
    }

    /// Problems with inherited descriptors, one per line.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Takes the socket bound to `address`. If the port is 0, takes the socket with the name `name`
    /// and the same IP address.
    pub fn take_tcp(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let found = self.sockets.iter().position(|passed| match passed.socket {
            Listening::Tcp(_, at) if address.port() == 0 => {
                passed.name == name && at.ip() == address.ip()
            }
            Listening::Tcp(_, at) => at == address,
            Listening::Unix(..) => false,
        });
        match self.sockets.remove(found?).socket {
            Listening::Tcp(socket, _) => Some(socket),
            Listening::Unix(..) => None,
        }
    }

    /// Takes the UNIX socket at `path`. The second value is true if the socket's file was created
    /// by a balancer, in which case a balancer must also remove it on exit.
    pub fn take_unix(&mut self, path: &Path) -> Option<(UnixListener, bool)> {
        let found = self
            .sockets
            .iter()
            .position(|passed| matches!(&passed.socket, Listening::Unix(_, at) if at == path));
        let passed = self.sockets.remove(found?);
        let is_balancers = self.is_upgrade() && [ADMIN, UNIX].contains(&&*passed.name);
        match passed.socket {
            Listening::Unix(socket, _) => Some((socket, is_balancers)),
            Listening::Tcp(..) => None,
        }
    }

    /// The address of an unused inherited socket with this port.
    pub(crate) fn in_the_way(&self, port: u16) -> Option<SocketAddr> {
        self.sockets.iter().find_map(|passed| match passed.socket {
            Listening::Tcp(_, at) if at.port() == port => Some(at),
            _ => None,
        })
    }

    /// Closes and returns unused sockets. If systemd passed them, this is a misconfiguration and is
    /// logged. In an upgrade, it means that the configuration has changed.
    pub fn close_rest(&mut self) -> UnusedSockets {
        let mut unused = UnusedSockets::default();
        let upgrade = self.is_upgrade();
        for passed in self.sockets.drain(..) {
            let at = match &passed.socket {
                Listening::Tcp(_, at) => {
                    unused.addresses.push(*at);
                    at.to_string()
                }
                Listening::Unix(_, path) => {
                    unused.paths.extend(path.to_str().map(str::to_owned));
                    path.display().to_string()
                }
            };
            if !upgrade {
                tracing::warn!(
                    name = passed.name,
                    address = at,
                    "unused inherited socket closed: no listener has this address as `bind`"
                );
            }
        }
        unused
    }

    /// Reports to the predecessor that this process cannot start.
    pub fn fail(&self, reasons: Vec<String>) {
        if let Some(old) = &self.streams.old {
            // An error means that the predecessor has exited.
            let _ = channel::send(old, &StartMessage::Failed { reasons });
        }
    }

    pub fn take_streams(&mut self) -> Streams {
        mem::take(&mut self.streams)
    }
}

fn listening(passed: &mut ListenFd, number: usize) -> io::Result<Option<Listening>> {
    let listens = |socket: SockRef<'_>| match socket.is_listener() {
        Ok(true) => Ok(()),
        Ok(false) => Err(io::Error::other("not a listening socket")),
        Err(error) => Err(error),
    };
    if let Ok(socket) = passed.take_unix_listener(number) {
        return socket
            .map(|socket| {
                listens(SockRef::from(&socket))?;
                let address = socket.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new(""));
                Ok(Listening::Unix(socket, path.to_owned()))
            })
            .transpose();
    }
    let socket = passed.take_tcp_listener(number)?;
    socket
        .map(|socket| {
            listens(SockRef::from(&socket))?;
            let address = socket.local_addr()?;
            Ok(Listening::Tcp(socket, address))
        })
        .transpose()
}

/// Names of `count` descriptors.
fn names_of(names: Option<&str>, count: usize) -> Vec<String> {
    let names = names.filter(|names| !names.is_empty());
    let mut names: Vec<_> = names
        .map(|names| names.split(':').map(str::to_owned).collect())
        .unwrap_or_default();
    // systemd's name for unnamed descriptors.
    names.resize(count, "unknown".to_owned());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(names: &[&str]) -> (Inherited, Vec<SocketAddr>) {
        let mut addresses = Vec::new();
        let sockets = names.iter().map(|name| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = socket.local_addr().unwrap();
            addresses.push(at);
            Passed {
                name: (*name).to_owned(),
                socket: Listening::Tcp(socket, at),
            }
        });
        let inherited = Inherited {
            sockets: sockets.collect(),
            ..Inherited::none()
        };
        (inherited, addresses)
    }

    #[test]
    fn socket_is_found_by_address_with_any_name() {
        let (mut inherited, at) = with(&["leastconn.socket", "leastconn.socket"]);
        let second = inherited.take_tcp("main", at[1]).unwrap();
        assert_eq!(second.local_addr().unwrap(), at[1]);
        assert!(inherited.take_tcp("main", at[1]).is_none(), "taken twice");
        assert_eq!(inherited.in_the_way(at[0].port()), Some(at[0]));
        assert_eq!(inherited.close_rest().addresses, [at[0]]);
    }

    #[test]
    fn socket_with_port_zero_is_found_by_name() {
        let (mut inherited, at) = with(&["main", "other"]);
        let any = "127.0.0.1:0".parse().unwrap();
        assert!(inherited.take_tcp("third", any).is_none());
        let elsewhere = "127.0.0.2:0".parse().unwrap();
        assert!(inherited.take_tcp("other", elsewhere).is_none());
        let other = inherited.take_tcp("other", any).unwrap();
        assert_eq!(other.local_addr().unwrap(), at[1]);
    }

    #[test]
    fn unix_socket_is_found_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let mut inherited = Inherited {
            sockets: vec![Passed {
                name: "unknown".to_owned(),
                socket: Listening::Unix(UnixListener::bind(&path).unwrap(), path.clone()),
            }],
            ..Inherited::none()
        };
        assert!(inherited.take_unix(Path::new("/elsewhere")).is_none());
        assert!(inherited.take_unix(&path).is_some());
        assert!(inherited.close_rest() == UnusedSockets::default());
    }

    #[test]
    fn every_descriptor_has_a_name() {
        assert_eq!(names_of(Some("a:b"), 2), ["a", "b"]);
        assert_eq!(names_of(Some("a"), 2), ["a", "unknown"]);
        assert_eq!(names_of(Some(""), 1), ["unknown"]);
        assert_eq!(names_of(None, 1), ["unknown"]);
        assert_eq!(names_of(Some("a:b"), 0), Vec::<String>::new());
    }
}
