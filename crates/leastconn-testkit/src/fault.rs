//! A proxy that simulates a faulty network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Faults in one direction. The default has no faults.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Maximum number of bytes per write. Each write is sent in a separate segment.
    pub slice: Option<usize>,
    /// Delay before every write.
    pub delay: Duration,
    /// Resets both sides after this many bytes.
    pub budget: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Control {
    black_hole: bool,
    resets: u64,
}

/// Listens on a loopback port and forwards to the target with [`Faults`]. Dropping the proxy resets
/// its connections.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    control: watch::Sender<Control>,
    listener: JoinHandle<()>,
}

impl FaultProxy {
    pub async fn start(target: SocketAddr, to_target: Faults, to_client: Faults) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let control = watch::Sender::<Control>::default();
        let connections = control.clone();
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let control = connections.subscribe();
                tokio::spawn(forward(
                    client,
                    target,
                    to_target.clone(),
                    to_client.clone(),
                    control,
                ));
            }
        });
        Self {
            addr,
            control,
            listener,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// While `on` is true, connections stay open and nothing is forwarded, not even the end
    /// of a stream.
    pub fn black_hole(&self, on: bool) {
        self.control.send_modify(|control| control.black_hole = on);
    }

    /// Resets both sides of every open connection.
    pub fn reset_all(&self) {
        self.control.send_modify(|control| control.resets += 1);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.reset_all();
    }
}

async fn forward(
    mut client: TcpStream,
    target: SocketAddr,
    to_target: Faults,
    to_client: Faults,
    mut control: watch::Receiver<Control>,
) -> io::Result<()> {
    let resets = control.borrow_and_update().resets;
    let mut server = TcpStream::connect(target).await?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
    }
    // Use borrowed halves, because dropping an owned write half would send FIN before the
    // reset.
    let broken = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let up = pump(client_read, server_write, to_target, control.clone());
        let down = pump(server_read, client_write, to_client, control.clone());
        tokio::select! {
            done = async { tokio::try_join!(up, down) } => done.is_err(),
            _ = control.wait_for(|control| control.resets != resets) => true,
        }
    };
    if broken {
        // Closing with a linger time of zero sends RST to both sides.
        for socket in [&client, &server] {
            socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok(())
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    faults: Faults,
    mut control: watch::Receiver<Control>,
) -> io::Result<()> {
    let mut buffer = vec![0; faults.slice.unwrap_or(16 * 1024)];
    let mut left = faults.budget.unwrap_or(u64::MAX);
    loop {
        let n = from.read(&mut buffer).await?;
        if !faults.delay.is_zero() {
            tokio::time::sleep(faults.delay).await;
        }
        // An error means that the proxy was dropped, which resets all connections.
        let _ = control.wait_for(|control| !control.black_hole).await;
        if n == 0 {
            return to.shutdown().await;
        }
        let n = n.min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&buffer[..n]).await?;
        left -= n as u64;
        if left == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{read_to_close, roundtrip};
    use crate::data::pattern;
    use crate::upstream::{Behaviour, Upstream};

    #[tokio::test]
    async fn slices_arrive_complete_and_in_order() {
        let upstream = Upstream::start(Behaviour::Echo).await;
        let faults = Faults {
            slice: Some(7),
            ..Faults::default()
        };
        let proxy = FaultProxy::start(upstream.addr(), faults.clone(), faults).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        let bytes = pattern(0, 5000);
        assert!(roundtrip(&mut stream, &bytes).await.unwrap() == bytes);
        stream.shutdown().await.unwrap();
        assert!(read_to_close(&mut stream).await.unwrap().is_empty());
        upstream.wait_open(0).await;
    }

    #[tokio::test]
    async fn exhausted_budget_resets_both_sides() {
        let upstream = Upstream::start(Behaviour::Source { bytes: 1 << 20 }).await;
        let faults = Faults {
            budget: Some(1000),
            ..Faults::default()
        };
        let proxy = FaultProxy::start(upstream.addr(), Faults::default(), faults).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        let reset = read_to_close(&mut stream).await.unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        upstream.wait_accepted(1).await;
        upstream.wait_open(0).await;
    }

    #[tokio::test]
    async fn black_hole_delays_data_and_reset_ends_it() {
        let upstream = Upstream::start(Behaviour::Echo).await;
        let proxy = FaultProxy::start(upstream.addr(), Faults::default(), Faults::default()).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        roundtrip(&mut stream, b"before").await.unwrap();
        proxy.black_hole(true);
        stream.write_all(b"during").await.unwrap();
        let mut response = [0; 6];
        // No event shows that nothing is forwarded, so wait for a fixed time.
        let nothing = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut response));
        assert!(nothing.await.is_err());
        proxy.black_hole(false);
        stream.read_exact(&mut response).await.unwrap();
        assert_eq!(&response, b"during");
        proxy.reset_all();
        let reset = read_to_close(&mut stream).await.unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        upstream.wait_open(0).await;
    }
}
