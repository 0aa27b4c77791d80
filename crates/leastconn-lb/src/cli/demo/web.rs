//! Upstream servers of the demo: each sends its name, then echoes.

use std::net::SocketAddr;

use parking_lot::Mutex;
use tokio::{
    io::{AsyncWriteExt, copy},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

/// A server that can be stopped and restarted.
pub(super) struct Web {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    running: Mutex<Option<JoinSet<()>>>,
}

impl Web {
    pub(super) async fn start(name: &'static str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let web = Self {
            name,
            address: listener.local_addr()?,
            running: Mutex::new(None),
        };
        web.serve(listener);
        Ok(web)
    }

    fn serve(&self, listener: TcpListener) {
        let name = self.name;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // The connection tasks belong to this task, so that aborting this task also closes the
            // connections.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(greet_and_echo(stream, name));
                while connections.try_join_next().is_some() {}
            }
        });
        *self.running.lock() = Some(tasks);
    }

    /// Stops listening and drops all connections.
    pub(super) async fn stop(&self) {
        let running = self.running.lock().take();
        if let Some(mut tasks) = running {
            tasks.shutdown().await;
        }
    }

    /// Listens again on the same address.
    pub(super) fn restart(&self) -> std::io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        self.serve(socket.listen(1024)?);
        Ok(())
    }
}

async fn greet_and_echo(mut stream: TcpStream, name: &str) {
    let greeting = format!("{name}\n");
    if stream.write_all(greeting.as_bytes()).await.is_ok() {
        let (mut read, mut write) = stream.split();
        let _ = copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    }
}
