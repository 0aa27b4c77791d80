//! Running balancers.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{
    client::greet,
    config::{self, Settings},
};
use crate::{
    compare::{child::Child, program::Program},
    machine,
};

/// Time limit for a balancer to start relaying connections.
const START: Duration = Duration::from_secs(20);

/// A balancer that relays connections. It is stopped when dropped.
pub(super) struct Balancer {
    _child: Child,
    pub(super) address: SocketAddr,
}

impl Balancer {
    /// Starts the balancer and waits until it relays connections.
    ///
    /// # Errors
    /// If the balancer does not support the settings or does not relay connections in time.
    pub(super) async fn start(
        program: &Program,
        settings: &Settings,
        directory: &Path,
    ) -> io::Result<Self> {
        if !config::is_supported(program.kind, settings) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", program.kind))
            .tempdir_in(directory)?
            .keep();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut command = config::prepare(program, settings, &directory, port)?;
        let cpus = machine::cpus();
        let mut child = Child::spawn(&mut command, &cpus, &cpus, &directory.join("output.log"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let end = Instant::now() + START;
        while !relays(address).await {
            if child.exit_status().is_some() || Instant::now() >= end {
                return Err(io::Error::other(child.log_tail()));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self {
            _child: child,
            address,
        })
    }
}

async fn relays(address: SocketAddr) -> bool {
    match TcpStream::connect(address).await {
        Ok(mut stream) => greet(&mut stream, Duration::from_secs(1)).await.is_ok(),
        Err(_) => false,
    }
}
