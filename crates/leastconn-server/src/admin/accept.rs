//! A common trait for accepting connections on TCP and UNIX sockets.

use std::{future::Future, io};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use super::serve::Caller;

/// A listening socket.
pub(super) trait Accept: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Accepts a connection and identifies its client.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Caller)>> + Send;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Caller)> {
        // Calls the inherent method, which takes `&self`, not the trait method.
        let (stream, from) = Self::accept(&*self).await?;
        Ok((stream, Caller::Address(from)))
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, Caller)> {
        let (stream, _) = Self::accept(&*self).await?;
        let credentials = stream.peer_cred().ok();
        Ok((stream, Caller::Socket(credentials)))
    }
}
