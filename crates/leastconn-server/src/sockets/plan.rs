//! Plans the sockets for a new configuration: which are kept, and which are opened.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use leastconn_config::Config;
use socket2::SockRef;
use tokio::net::TcpListener;

use super::{
    Sockets, all_or_errors,
    bind::{self, BindError},
    unix,
};
use crate::{process::inherited::Inherited, socket_file::SocketError};

/// The planned changes for a configuration. All steps that can fail are complete.
#[derive(Debug)]
pub struct Plan {
    pub(super) tcp: Vec<(Wanted, Source)>,
    pub(super) unix: unix::Plan,
}

/// A TCP address that a configuration listens on.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) listener: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) only_v6: bool,
    pub(super) keepalive: Option<Duration>,
}

#[derive(Debug)]
pub(super) enum Source {
    /// The index of a bound socket.
    Kept(usize),
    /// A new or inherited socket, with its bound address.
    New(TcpListener, SocketAddr),
}

/// Why listening on a configured address failed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The process is out of file descriptors.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A UNIX socket cannot be created.
    #[error(transparent)]
    Unix(#[from] SocketError),
    /// The address overlaps an address that this process listens on.
    #[error(
        "{listener} cannot listen on {address}: this process listens at {at}, which is in the way; that change needs a restart"
    )]
    Overlaps {
        /// Name and kind, or the key of the admin address.
        listener: Arc<str>,
        address: SocketAddr,
        /// The bound address that overlaps.
        at: SocketAddr,
    },
    /// An IPv4 wildcard address with the same port was added or removed, and Linux cannot
    /// change `IPV6_V6ONLY` of a bound socket.
    #[error(
        "listener `{listener}`: {address} must start or stop accepting IPv4 connections, because an IPv4 address with this port was added or removed; that change needs a restart"
    )]
    OnlyV6 {
        listener: Arc<str>,
        /// The IPv6 address.
        address: SocketAddr,
    },
}

impl Sockets {
    /// Plans the changes for `config`, and binds new addresses that are not `inherited`.
    ///
    /// # Errors
    /// One error for each address on which listening failed. Sockets that were already bound by this
    /// call are closed.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn plan(&self, config: &Config, inherited: &mut Inherited) -> Result<Plan, Vec<PlanError>> {
        let wanted = wanted(config);
        let kept = self.kept(&wanted);
        let sources = wanted.into_iter().zip(kept).map(|(wanted, kept)| {
            let source = match kept {
                Some(index) if self.tcp[index].wanted.only_v6 != wanted.only_v6 => {
                    Err(PlanError::OnlyV6 {
                        listener: Arc::clone(&wanted.listener),
                        address: wanted.address,
                    })
                }
                Some(index) => Ok(Source::Kept(index)),
                None => match inherited.take_tcp(&wanted.listener, wanted.address) {
                    Some(socket) => adopt(&wanted, socket, inherited.is_upgrade()),
                    None => self.bind(&wanted, inherited),
                },
            };
            Ok((wanted, source?))
        });
        let tcp = all_or_errors(sources);
        let unix = self.unix.plan(config, inherited);
        let unix = unix.map_err(|errors| errors.into_iter().map(PlanError::from).collect());
        match (tcp, unix) {
            (Ok(tcp), Ok(unix)) => Ok(Plan { tcp, unix }),
            (Err(mut errors), Err(more)) => {
                errors.extend::<Vec<PlanError>>(more);
                Err(errors)
            }
            (Err(errors), _) | (_, Err(errors)) => Err(errors),
        }
    }

    /// For each wanted address, the index of the bound socket that is kept for it.
    ///
    /// Addresses that stay with their listener are assigned first. A port that the kernel chose
    /// stays with its listener, but any other address may move to another listener.
    fn kept(&self, wanted: &[Wanted]) -> Vec<Option<usize>> {
        let mut kept: Vec<Option<usize>> = vec![None; wanted.len()];
        for same_listener in [true, false] {
            for (position, wanted) in wanted.iter().enumerate() {
                if kept[position].is_some() {
                    continue;
                }
                let found = self.tcp.iter().enumerate().find(|(index, socket)| {
                    let is_same = socket.wanted.listener == wanted.listener;
                    socket.wanted.address == wanted.address
                        && (is_same || (!same_listener && wanted.address.port() != 0))
                        && !kept.contains(&Some(*index))
                });
                kept[position] = found.map(|(index, _)| index);
            }
        }
        kept
    }

    fn bind(&self, wanted: &Wanted, inherited: &Inherited) -> Result<Source, PlanError> {
        let bound = bind::bind(
            &wanted.listener,
            wanted.address,
            wanted.only_v6,
            wanted.keepalive,
        )
        .and_then(|socket| {
            new_source(socket)
                .map_err(|error| BindError::new(&wanted.listener, wanted.address, error))
        });
        bound.map_err(|error| {
            let port = wanted.address.port();
            let own = self.tcp.iter().map(|socket| socket.address);
            let overlapping = own
                .chain(inherited.in_the_way(port))
                .find(|at| error.is_in_use() && at.port() == port);
            match overlapping {
                Some(at) => PlanError::Overlaps {
                    listener: format!("listener `{}`", wanted.listener).into(),
                    address: wanted.address,
                    at,
                },
                None => error.into(),
            }
        })
    }
}

/// Adopts an inherited socket.
fn adopt(
    wanted: &Wanted,
    socket: std::net::TcpListener,
    is_upgrade: bool,
) -> Result<Source, PlanError> {
    let adopt = || {
        bind::adopt(&socket, wanted.keepalive)?;
        let only_v6 = match wanted.address {
            SocketAddr::V6(address) if address.ip().is_unspecified() => {
                SockRef::from(&socket).only_v6()?
            }
            _ => wanted.only_v6,
        };
        // A socket from systemd keeps the setting of its unit file (`BindIPv6Only=`). In an
        // upgrade, a difference means that an IPv4 address was added or removed. Clients would
        // then reach the wrong listener.
        if is_upgrade && only_v6 != wanted.only_v6 {
            return Ok(None);
        }
        new_source(socket).map(Some)
    };
    let adopted = adopt();
    adopted
        .map_err(|error| BindError::new(&wanted.listener, wanted.address, error))?
        .ok_or_else(|| PlanError::OnlyV6 {
            listener: Arc::clone(&wanted.listener),
            address: wanted.address,
        })
}

fn new_source(socket: std::net::TcpListener) -> io::Result<Source> {
    let address = socket.local_addr()?;
    Ok(Source::New(TcpListener::from_std(socket)?, address))
}

fn wanted(config: &Config) -> Vec<Wanted> {
    let mut all = Vec::new();
    for listener in &config.listeners {
        all.extend(listener.binds.iter().map(|&address| Wanted {
            listener: Arc::clone(&listener.name),
            address,
            only_v6: has_v4_sibling(config, address),
            keepalive: listener.keepalive,
        }));
    }
    all
}

/// Whether `address` is IPv6 and the configuration also binds an IPv4 address with this port,
/// which must get the IPv4 connections.
fn has_v4_sibling(config: &Config, address: SocketAddr) -> bool {
    let mut all = config.listeners.iter().flat_map(|listener| &listener.binds);
    address.is_ipv6()
        && all.any(|other| other.is_ipv4() && other.port() == address.port() && other.port() != 0)
}
