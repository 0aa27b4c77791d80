//! A cancelled dial does not look like a client that has finished sending.

use std::{
    future::Future,
    io::ErrorKind,
    pin::pin,
    task::{Context, Waker},
};

use tokio::{io::AsyncReadExt, net::TcpListener};

use super::super::dial::dialling;

#[tokio::test]
async fn cancelled_dial_resets_an_accepted_connection() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    {
        let mut dial = pin!(dialling(server.local_addr().unwrap()));
        let mut context = Context::from_waker(Waker::noop());
        // On loopback, the kernel connects immediately, but the runtime has not polled the socket
        // yet.
        assert!(dial.as_mut().poll(&mut context).is_pending());
    }
    let (mut accepted, _) = server.accept().await.unwrap();
    let end = accepted.read(&mut [0]).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
