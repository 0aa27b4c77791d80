//! Watches the sockets of senders whose receiver is slow.
//!
//! A flow that waits for its writer does not read, so that a slow receiver slows down its sender.
//! Without a read, a reset of the sender would go unnoticed, and the connection would stay open
//! until the idle timeout.

use std::{
    future::{pending, poll_fn},
    mem,
    pin::pin,
    task::Poll,
};

use tokio::{io::Interest, net::TcpStream};

/// Waits until one of the sockets has a pending error, or until the task is woken for another
/// reason. Returns which of the sockets have a pending error.
///
/// The caller must have registered its other wakers during the current poll of the task.
pub(super) async fn error_or_wakeup(sockets: [Option<&TcpStream>; 2]) -> [bool; 2] {
    let [client, server] = sockets.map(error_of);
    let (mut client, mut server) = (pin!(client), pin!(server));
    let mut was_polled = false;
    poll_fn(|cx| {
        let failed = [
            client.as_mut().poll(cx).is_ready(),
            server.as_mut().poll(cx).is_ready(),
        ];
        // A second poll means that the task was woken.
        if failed.contains(&true) || mem::replace(&mut was_polled, true) {
            Poll::Ready(failed)
        } else {
            Poll::Pending
        }
    })
    .await
}

async fn error_of(socket: Option<&TcpStream>) {
    if let Some(socket) = socket
        && socket.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    // There is no socket, or the runtime is shutting down.
    pending().await
}
