//! Prepares new connections to servers.

use std::{future::ready, io};

use tokio::net::TcpStream;

use super::Stream;
use crate::Server;

/// A step between connecting and relaying, such as sending a PROXY header or performing a TLS
/// handshake.
///
/// The step is part of a connection attempt and shares its time limit. If the step fails, the next
/// server is tried. The step may therefore run several times for one client, each time on a new
/// connection.
pub trait Prepare: Send + Sync {
    /// The type of prepared streams.
    type Stream: Stream + Send;

    /// Prepares `stream`, which has just been connected to an address of `server`. If the server is
    /// at a UNIX socket, `stream` comes from [`from_unix`](super::from_unix).
    ///
    /// # Errors
    /// If the server does not complete the step. The error's text is logged as the reason for the
    /// failed attempt. Errors from system calls must keep their OS error code, which shows whether
    /// the server has failed or this process lacks resources.
    ///
    /// # Cancel safety
    /// When the attempt times out, the future is dropped and the connection is closed.
    fn prepare(
        &self,
        stream: TcpStream,
        server: &Server,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl<P: Prepare> Prepare for &P {
    type Stream = P::Stream;

    fn prepare(
        &self,
        stream: TcpStream,
        server: &Server,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send {
        (**self).prepare(stream, server)
    }
}

/// No preparation: returns the TCP connection unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain;

impl Prepare for Plain {
    type Stream = TcpStream;

    fn prepare(
        &self,
        stream: TcpStream,
        _: &Server,
    ) -> impl Future<Output = io::Result<TcpStream>> + Send {
        ready(Ok(stream))
    }
}
