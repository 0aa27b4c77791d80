//! Listening sockets that this process did not open: from systemd, or from the
//! process that it takes the place of.
//!
//! Both by systemd's protocol, sd_listen_fds(3): descriptors from 3 on, as many as
//! `LISTEN_FDS` says, named by `LISTEN_FDNAMES`. `LISTEN_PID` says whom they are for.
//! Between fork and exec nobody can write a process's own ID into its environment
//! without unsafe code, so for an upgrade `LEASTCONN_UPGRADE` has the other end of the
//! relation, which is as unmistakable: the ID of the parent.
//!
//! A socket is used by whoever is configured for its address, whatever its name. The
//! name matters only where the address does not say enough: the port was the system's
//! choice.

use std::{
    io, mem,
    net::{SocketAddr, TcpListener},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
};

use listenfd::ListenFd;
use rustix::{
    net::{AddressFamily, SocketType},
    process::getppid,
};
use socket2::SockRef;

use crate::{
    environment::{
        ADMIN, BY_HAND, EARLIER, FIRST, LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, OLD, UNIX, UPGRADE,
    },
    overrides::OverrideHandover,
    process::upgrade::channel::{self, FromNew, Unused},
};

/// The first descriptor that is passed.
const FIRST_FD: usize = 3;

/// More than anybody passes; what is beyond was not meant.
const MOST: usize = 4096;

/// What this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The process that this one is to take the place of.
    replaces: Option<u32>,
    sockets: Vec<Passed>,
    streams: Streams,
    overrides: Option<OverrideHandover>,
    problems: Vec<String>,
}

/// Connections to other processes.
#[derive(Debug, Default)]
pub struct Streams {
    /// To the one that this one is to take the place of.
    pub old: Option<UnixStream>,
    /// To those before it that have not ended.
    pub earlier: Vec<UnixStream>,
    /// To the first one of a container.
    pub first: Option<UnixStream>,
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
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes what there is. Once, and before anything else opens a file or starts a
    /// thread: descriptors are numbers, and the environment changes.
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
        let overrides = variable(BY_HAND).filter(|_| this.is_upgrade());
        // A later version may say what this one does not understand.
        this.overrides = overrides.and_then(|text| serde_json::from_str(&text).ok());
        let Some(count) = variable(LISTEN_FDS).filter(|_| ours || replaces.is_some()) else {
            return this;
        };
        let names = variable(LISTEN_FDNAMES);
        if !count.parse().is_ok_and(|count: usize| count <= MOST) {
            this.problems.push(format!(
                "LISTEN_FDS={count} is not a number of sockets: none is used"
            ));
            return this;
        }
        let mut passed = ListenFd::from_env();
        let names = names_of(names.as_deref(), passed.len());
        for (number, name) in names.into_iter().enumerate() {
            if let Err(error) = this.keep(&mut passed, number, &name) {
                let descriptor = number + FIRST_FD;
                this.problems.push(format!(
                    "descriptor {descriptor} (`{name}`), which this process was started with, is not used: {error}"
                ));
            }
        }
        this
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
            EARLIER if self.is_upgrade() => self.streams.earlier.extend(stream()?),
            FIRST if self.is_upgrade() => self.streams.first = stream()?,
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

    /// Whether this process is to take the place of another.
    pub const fn is_upgrade(&self) -> bool {
        self.replaces.is_some()
    }

    /// The ID of that other process.
    pub const fn replaces(&self) -> Option<u32> {
        self.replaces
    }

    /// What was set by hand in that other process.
    pub(crate) const fn overrides(&self) -> Option<&OverrideHandover> {
        self.overrides.as_ref()
    }

    /// What was wrong with what was passed, a line each.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The socket for `address`. If its port is 0, the one that has this name and is
    /// at the same IP address.
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

    /// The UNIX socket at `path`, and whether its file is a balancer's, to be removed at
    /// the end.
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

    /// An address that was passed, is not used so far, and has this port.
    pub(crate) fn in_the_way(&self, port: u16) -> Option<SocketAddr> {
        self.sockets.iter().find_map(|passed| match passed.socket {
            Listening::Tcp(_, at) if at.port() == port => Some(at),
            _ => None,
        })
    }

    /// Closes what nothing was configured for, and returns where that was. From
    /// systemd it is a mistake, which is said; in an upgrade the configuration has
    /// changed.
    pub fn close_rest(&mut self) -> Unused {
        let mut unused = Unused::default();
        let upgrade = self.is_upgrade();
        for passed in self.sockets.drain(..) {
            let at = match &passed.socket {
                Listening::Tcp(_, at) => {
                    unused.addresses.push(*at);
                    at.to_string()
                }
                Listening::Unix(_, path) => {
                    // One that has another kind of name was not a balancer's own: those
                    // are from configurations.
                    unused.paths.extend(path.to_str().map(str::to_owned));
                    path.display().to_string()
                }
            };
            if !upgrade {
                tracing::warn!(
                    name = passed.name,
                    "nothing is configured for the socket at {at} that this process was started with: closed; `bind` must be that address"
                );
            }
        }
        unused
    }

    /// Tells the old process why this one does not take its place.
    pub fn fail(&self, reasons: Vec<String>) {
        if let Some(old) = &self.streams.old {
            // If nobody listens any more, nobody waits either.
            let _ = channel::send(old, &FromNew::Failed { reasons });
        }
    }

    /// The connections to other processes.
    pub fn take_streams(&mut self) -> Streams {
        mem::take(&mut self.streams)
    }
}

fn listening(passed: &mut ListenFd, number: usize) -> io::Result<Option<Listening>> {
    let listens = |socket: SockRef<'_>| match socket.is_listener() {
        Ok(true) => Ok(()),
        Ok(false) => Err(io::Error::other("it is a socket that does not listen")),
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

/// A name for each of `count` descriptors.
fn names_of(names: Option<&str>, count: usize) -> Vec<String> {
    let names = names.filter(|names| !names.is_empty());
    let mut names: Vec<_> = names
        .map(|names| names.split(':').map(str::to_owned).collect())
        .unwrap_or_default();
    // What systemd calls those of which it says nothing.
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
    fn a_socket_is_found_by_its_address_whatever_its_name() {
        let (mut inherited, at) = with(&["leastconn.socket", "leastconn.socket"]);
        let second = inherited.take_tcp("main", at[1]).unwrap();
        assert_eq!(second.local_addr().unwrap(), at[1]);
        assert!(inherited.take_tcp("main", at[1]).is_none(), "taken twice");
        assert_eq!(inherited.in_the_way(at[0].port()), Some(at[0]));
        assert_eq!(inherited.close_rest().addresses, [at[0]]);
    }

    #[test]
    fn without_a_port_it_is_found_by_its_name() {
        let (mut inherited, at) = with(&["main", "other"]);
        let any = "127.0.0.1:0".parse().unwrap();
        assert!(inherited.take_tcp("third", any).is_none());
        let elsewhere = "127.0.0.2:0".parse().unwrap();
        assert!(inherited.take_tcp("other", elsewhere).is_none());
        let other = inherited.take_tcp("other", any).unwrap();
        assert_eq!(other.local_addr().unwrap(), at[1]);
    }

    #[test]
    fn a_unix_socket_is_found_by_its_path() {
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
        assert!(inherited.close_rest() == Unused::default());
    }

    #[test]
    fn each_descriptor_has_a_name() {
        assert_eq!(names_of(Some("a:b"), 2), ["a", "b"]);
        assert_eq!(names_of(Some("a"), 2), ["a", "unknown"]);
        assert_eq!(names_of(Some(""), 1), ["unknown"]);
        assert_eq!(names_of(None, 1), ["unknown"]);
        assert_eq!(names_of(Some("a:b"), 0), Vec::<String>::new());
    }
}
