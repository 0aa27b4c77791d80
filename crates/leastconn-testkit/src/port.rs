//! Reserved ports, for programs that cannot listen on port 0.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A reserved port. Until this value is dropped, the kernel assigns the port to no other
/// socket. Programs that set `SO_REUSEADDR` (nginx, redis, the balancer) can listen on it.
/// Connections are refused while no program listens.
#[derive(Debug)]
pub struct Port {
    pub address: SocketAddr,
    _reservation: Socket,
}

impl Port {
    /// Reserves a free port on loopback.
    ///
    /// # Panics
    /// If no port is free.
    pub fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self {
            address,
            _reservation: socket,
        }
    }
}
