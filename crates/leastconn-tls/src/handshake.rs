//! The part of the handshake after the ClientHello, which needs expensive signatures.

use std::{future::poll_fn, io, task::Poll};

use rustls::ServerConnection;
use tokio::net::TcpStream;

use crate::{
    buffered::Buffered,
    client_hello::{Hello, send_alert},
    diagnostics::{Diagnostics, Failed},
    direct::into_direct,
    handshake_error::HandshakeError,
    last_flight::{LastFlight, acknowledge},
    permit::Permit,
    polled_socket::Polled,
    rejected,
    server::{ConnectionConfig, Server},
    settings::RecordLayer,
    stream::TlsStream,
    unbuffered::{Handshaken, handshake_for_direct},
};

/// Completes the handshake after the ClientHello. Each step runs in a time slice of
/// `permit`. If the listener requires a certificate, the client of the returned stream is
/// trusted and has proven possession of its key.
///
/// # Errors
/// The socket is returned with the error. If an alert was sent, let the client read the
/// alert before closing the socket.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub fn accept(
    socket: TcpStream,
    hello: Hello,
    server: &Server,
    permit: &impl Permit,
) -> impl Future<Output = Result<TlsStream, (Box<Failed>, TcpStream)>> {
    rejected::with_slot(finish(socket, hello, server, permit))
}

async fn finish(
    socket: TcpStream,
    hello: Hello,
    server: &Server,
    permit: &impl Permit,
) -> Result<TlsStream, (Box<Failed>, TcpStream)> {
    let config = server.config(&hello);
    match server.records {
        RecordLayer::Direct => {
            // Free the parsed ClientHello now, because the rest of the handshake may take seconds.
            drop(hello.accepted);
            direct(socket, hello.bytes, config, permit).await
        }
        // Boxed to keep the future for the other record layer small.
        RecordLayer::Rustls => Box::pin(buffered(socket, hello, config, permit)).await,
    }
}

/// Completes the handshake with rustls' record layer.
async fn buffered(
    mut socket: TcpStream,
    hello: Hello,
    config: ConnectionConfig,
    permit: &impl Permit,
) -> Result<TlsStream, (Box<Failed>, TcpStream)> {
    // `into_connection` signs the answer to the ClientHello, which costs CPU time.
    let turn = permit.time_slice().await;
    let session = hello.accepted.into_connection(config.config);
    drop(turn);
    let session: ServerConnection = match session {
        Ok(session) => session,
        Err((error, alert)) => {
            let mut failed: Box<Failed> = error.clone().into();
            failed.diagnostics.saw_hello(&hello.bytes, &error);
            let mut alert = Some(alert);
            poll_fn(|cx| {
                let socket = &mut socket;
                if let Some(alert) = alert.take() {
                    send_alert(&mut failed, alert, &mut Polled { socket, cx });
                }
                Poll::Ready(())
            })
            .await;
            return Err((failed, socket));
        }
    };
    let mut stream = Buffered::new(socket, session);
    let (given, early) = hello.bytes.split_at(hello.length);
    stream.was_given(given);
    let handshake = stream.handshake(early, permit, config.sessions.as_deref());
    match handshake.await {
        Ok(last) => {
            if last == LastFlight::Received {
                acknowledge(stream.tcp());
            }
            Ok(TlsStream::rustls(stream))
        }
        Err(error) => {
            let diagnostics = match &error {
                HandshakeError::Tls(error) => Diagnostics::gather(error, Some(stream.session())),
                _ => Diagnostics::default(),
            };
            let failed = Box::new(Failed { error, diagnostics });
            Err((failed, stream.into_socket()))
        }
    }
}

/// Completes the handshake with this crate's record layer.
async fn direct(
    mut socket: TcpStream,
    received: Vec<u8>,
    config: ConnectionConfig,
    permit: &impl Permit,
) -> Result<TlsStream, (Box<Failed>, TcpStream)> {
    let done = Box::pin(handshake_for_direct(&mut socket, received, config, permit)).await;
    let Handshaken {
        secrets,
        negotiated,
        unopened,
        last,
    } = match done {
        Ok(done) => done,
        Err(failed) => return Err((failed, socket)),
    };
    if last == LastFlight::Received {
        acknowledge(&socket);
    }
    match into_direct(socket, secrets, &unopened) {
        Ok(stream) => Ok(TlsStream::direct(stream, negotiated)),
        Err((violation, socket)) => Err((io::Error::other(violation).into(), socket)),
    }
}
