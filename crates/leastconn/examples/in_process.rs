//! Balances the connections of several clients across three servers, all in one process. Shows the
//! distribution, a rate limit, and the failure of a server.
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
    // A burst of twelve connections, then one connection per second.
    let rate = RateLimit::new(1.0, const { NonZeroU32::new(12).unwrap() });
    let mut builder = Balancer::builder("echo").limits(Limits::default().rate(rate));
    for name in ["alpha", "beta", "gamma"] {
        let (address, server) = echo_server().await?;
        builder = builder.server(ServerSpec::new(name, address));
        servers.push(server);
    }
    let balancer = Arc::new(builder.build()?);

    // In a real program, only clients connect to this listener. Here the program also opens the
    // client connections itself.
    let listener = TcpListener::bind("127.0.0.1:0").await?;

    println!("alice opens 12 connections and uses up her burst:");
    let (report, clients) = open(&balancer, &listener, "alice", 12).await?;
    for member in balancer.pool().members().iter() {
        let server = &member.server;
        println!("  {} has {} open", server.id(), server.in_flight());
    }
    close(clients).await?;
    report.print().await?;

    println!("alice opens 3 more, and bob opens 3:");
    for client in ["alice", "bob"] {
        let (report, clients) = open(&balancer, &listener, client, 3).await?;
        close(clients).await?;
        report.print().await?;
    }

    println!("alpha stops, and carol opens 6 connections:");
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

/// Collects the results of a group of connections.
struct Report {
    client: &'static str,
    balancing: JoinSet<Result<leastconn::Transfer, BalanceError>>,
}

impl Report {
    async fn print(mut self) -> Result<(), Box<dyn Error>> {
        let mut counts = BTreeMap::new();
        while let Some(outcome) = self.balancing.join_next().await {
            let result = match outcome? {
                Ok(transfer) => format!("went to {}", transfer.server),
                Err(error) => format!("refused: {}", error.reason()),
            };
            *counts.entry(result).or_insert(0) += 1;
        }
        for (result, count) in counts {
            println!("  {}: {count} {result}", self.client);
        }
        Ok(())
    }
}

/// Opens `count` connections and balances each in its own task. Returns once every connection has
/// received an answer or was refused.
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
        // If the connection was refused, the write or the read fails.
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
                // An error affects only this connection.
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    Ok((address, server))
}
