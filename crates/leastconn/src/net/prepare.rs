//! What a fresh connection to a server needs before it can be used.

use std::{future::ready, io};

use tokio::net::TcpStream;

use super::Stream;
use crate::Server;

/// A step between "TCP is connected" and "the server can be used": sending a
/// header, say, or an encryption handshake.
///
/// It is part of an attempt: it runs within the attempt's deadline, and where it
/// fails, the attempt has failed and the next server is tried. So it must be
/// repeatable, with another connection each time.
pub trait Prepare: Send + Sync {
    /// What the connection becomes.
    type Stream: Stream + Send;

    /// Makes `stream`, just connected to an address of `server`, usable. For a server at a
    /// UNIX socket it is what [`from_unix`](super::from_unix) makes.
    ///
    /// # Errors
    /// If the server does not play along. The message goes to the log as the
    /// reason why connecting failed. An error of the system must keep its code:
    /// it tells what the server did from what this process lacks.
    ///
    /// # Cancel safety
    /// The future is dropped when its time is over, and the connection with it.
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

/// Nothing: the TCP connection as it is.
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
