//! Preparation of fresh connections to servers.

use std::{future::ready, io};

use tokio::net::TcpStream;

use super::Stream;
use crate::Server;

/// A step between connecting and relaying, for example sending a PROXY header or a TLS
/// handshake.
///
/// The step is part of a connection attempt: it runs within the attempt's deadline, and if it
/// fails, the next server is tried. It may run several times for one client, each time on a new
/// connection.
pub trait Prepare: Send + Sync {
    /// The prepared stream.
    type Stream: Stream + Send;

    /// Prepares `stream`, which has just been connected to an address of `server`. For a server
    /// at a UNIX socket, `stream` comes from [`from_unix`](super::from_unix).
    ///
    /// # Errors
    /// If the server does not complete the step. The message is logged as the reason of the
    /// failed attempt. System errors must keep their error code, which distinguishes faults of
    /// the server from a lack of resources in this process.
    ///
    /// # Cancel safety
    /// The future is dropped, and the connection closed, when the attempt times out.
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
