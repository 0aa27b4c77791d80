//! Sends a PROXY header on a new connection to a server.

use std::io;

use leastconn::{Server, net::Prepare};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Sends a header, if there is one, before `inner` prepares the connection.
#[derive(Debug)]
pub struct WithProxyHeader<P> {
    header: Option<Vec<u8>>,
    inner: P,
}

impl<P> WithProxyHeader<P> {
    pub const fn new(header: Option<Vec<u8>>, inner: P) -> Self {
        Self { header, inner }
    }
}

impl<P: Prepare> Prepare for WithProxyHeader<P> {
    type Stream = P::Stream;

    async fn prepare(&self, mut socket: TcpStream, server: &Server) -> io::Result<P::Stream> {
        if let Some(header) = &self.header {
            // The send buffer of a new connection is empty, so this is a single write.
            socket.write_all(header).await?;
        }
        self.inner.prepare(socket, server).await
    }
}
