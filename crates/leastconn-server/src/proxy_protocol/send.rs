//! Sending a header to a server, first of all.

use std::io;

use leastconn::{Server, net::Prepare};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// A step on a fresh connection: the header, if there is one, and then whatever
/// else there is to do.
#[derive(Debug)]
pub struct Headed<P> {
    header: Option<Vec<u8>>,
    then: P,
}

impl<P> Headed<P> {
    /// `header` and `then`.
    pub const fn new(header: Option<Vec<u8>>, then: P) -> Self {
        Self { header, then }
    }
}

impl<P: Prepare> Prepare for Headed<P> {
    type Stream = P::Stream;

    async fn prepare(&self, mut socket: TcpStream, server: &Server) -> io::Result<P::Stream> {
        if let Some(header) = &self.header {
            // All in one: nothing has been sent yet, so there is room for it.
            socket.write_all(header).await?;
        }
        self.then.prepare(socket, server).await
    }
}
