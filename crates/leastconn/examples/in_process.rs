//! Three servers, a balancer and its clients in one process: what goes where,
//! who is refused, and what happens when a server dies.
//!
//! ```sh
//! cargo run --example in_process
//! ```

use std::{collections::BTreeMap, error::Error, num::NonZeroU32, sync::Arc};

use leastconn::{
    Address, BalanceError, Balancer, ClientId, Limits, RateLimit, Selector, ServerSpec,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut servers = Vec::new();
    // A burst of twelve, then one per second.
    let rate = RateLimit::new(1.0, const { NonZeroU32::new(12).unwrap() });
    let mut builder = Balancer::builder("echo").limits(Limits::default().rate(rate));
    for name in ["alpha", "beta", "gamma"] {
        let (address, server) = echo_server().await?;
        builder = builder.server(ServerSpec::new(name, address));
        servers.push(server);
    }
    let balancer = Arc::new(builder.build()?);

    // The program accepts connections in its own way. Here it makes both ends.
    let listener = TcpListener::bind("127.0.0.1:0").await?;

    println!("twelve connections of alice, and her limit is twelve:");
    let (report, clients) = open(&balancer, &listener, "alice", 12).await?;
    for member in balancer.pool().members().iter() {
        let server = &member.server;
        println!("  {} has {} open", server.id(), server.in_flight());
    }
    close(clients).await?;
    report.print().await?;

    println!("three more of alice at once, and three of bob:");
    for client in ["alice", "bob"] {
        let (report, clients) = open(&balancer, &listener, client, 3).await?;
        close(clients).await?;
        report.print().await?;
    }

    println!("alpha dies, and six connections of carol come:");
    servers.remove(0).abort();
    let (report, clients) = open(&balancer, &listener, "carol", 6).await?;
    close(clients).await?;
    report.print().await?;
    for member in balancer.pool().members().iter() {
        let status = member.server.status();
        let state = if status.is_up() { "up" } else { "down" };
        println!(
            "  {} is {state}: {} connections, {} failed, {} open",
            member.server.id(),
            status.connections,
            status.connect_failures,
            status.in_flight,
        );
    }
    Ok(())
}

/// What became of some connections.
struct Report {
    client: &'static str,
    balancing: JoinSet<Result<leastconn::Transfer, BalanceError>>,
}

impl Report {
    async fn print(mut self) -> Result<(), Box<dyn Error>> {
        let mut went = BTreeMap::new();
        while let Some(outcome) = self.balancing.join_next().await {
            let what = match outcome? {
                Ok(transfer) => format!("went to {}", transfer.server),
                Err(error) => format!("refused: {}", error.reason()),
            };
            *went.entry(what).or_insert(0) += 1;
        }
        for (what, count) in went {
            println!("  {}: {count} {what}", self.client);
        }
        Ok(())
    }
}

/// Opens connections and has each balanced in a task of its own. Returns when
/// each has had an answer, or was refused.
async fn open(
    balancer: &Arc<Balancer>,
    listener: &TcpListener,
    client: &'static str,
    count: usize,
) -> Result<(Report, Vec<TcpStream>), Box<dyn Error>> {
    let mut balancing = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(listener.local_addr()?).await?;
        let (connection, _peer) = listener.accept().await?;
        let balancer = Arc::clone(balancer);
        balancing.spawn(async move {
            let (id, allowed) = (ClientId::from(client), Selector::all());
            balancer.balance(connection, &id, &allowed).await
        });
        // A refused connection is closed, at any point of this.
        let mut answer = [0; 5];
        if stream.write_all(b"hello").await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
        {
            clients.push(stream);
        }
    }
    Ok((Report { client, balancing }, clients))
}

async fn close(clients: Vec<TcpStream>) -> Result<(), Box<dyn Error>> {
    for mut client in clients {
        client.shutdown().await?;
        client.read_to_end(&mut Vec::new()).await?;
    }
    Ok(())
}

async fn echo_server() -> Result<(Address, JoinHandle<()>), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.into();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                // An error is the end of this connection and of nothing else.
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    Ok((address, server))
}
