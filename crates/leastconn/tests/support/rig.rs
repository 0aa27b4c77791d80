//! A balancer behind a TCP listener.

use std::{net::SocketAddr, sync::Arc};

use leastconn::{
    BalanceError, Balancer, BalancerBuilder, ClientId, Selector, ServerSpec, Transfer,
};
use leastconn_testkit::{DEADLINE, Upstream, within};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

pub(crate) type Outcome = Result<Transfer, BalanceError>;

pub(crate) struct Rig {
    pub(crate) balancer: Arc<Balancer>,
    address: SocketAddr,
    outcomes: mpsc::Receiver<Outcome>,
    accepting: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn start(builder: BalancerBuilder) -> Self {
        let balancer = Arc::new(builder.build().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, outcomes) = mpsc::channel(1024);
        let shared = Arc::clone(&balancer);
        let accepting = tokio::spawn(async move {
            loop {
                let (connection, peer) = listener.accept().await.unwrap();
                let (balancer, sender) = (Arc::clone(&shared), sender.clone());
                tokio::spawn(async move {
                    let client = ClientId::from(peer.ip().to_string());
                    let outcome = balancer
                        .balance(connection, &client, &Selector::all())
                        .await;
                    // The receiver is dropped if the test is already over.
                    let _ = sender.send(outcome).await;
                });
            }
        });
        Self {
            balancer,
            address,
            outcomes,
            accepting,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits for a connection to end and returns its outcome.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        within(DEADLINE, "a connection's end", self.outcomes.recv())
            .await
            .unwrap()
    }

    pub(crate) fn in_flight(&self) -> Vec<u32> {
        let members = self.balancer.pool().members();
        members.iter().map(|m| m.server.in_flight()).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Creates a balancer builder with these servers, which are named web0, web1 and so on.
pub(crate) fn builder<'a>(upstreams: impl IntoIterator<Item = &'a Upstream>) -> BalancerBuilder {
    upstreams.into_iter().enumerate().fold(
        Balancer::builder("web"),
        |builder, (number, upstream)| {
            builder.server(ServerSpec::new(format!("web{number}"), upstream.addr()))
        },
    )
}

/// Raises the soft limit on open file descriptors to the hard limit.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}
