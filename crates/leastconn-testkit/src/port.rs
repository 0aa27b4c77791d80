//! A port for whoever cannot be given port 0.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of this machine. While this lives the kernel gives it to nobody who asks for
/// any port, and a program that sets `SO_REUSEADDR` (nginx, redis, the balancer) can
/// listen on it, again and again. Until somebody does, connecting is refused.
#[derive(Debug)]
pub struct Port {
    /// With the loopback address.
    pub address: SocketAddr,
    _reservation: Socket,
}

impl Port {
    /// One that is free.
    ///
    /// # Panics
    /// When there is none.
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
