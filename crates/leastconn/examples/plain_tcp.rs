//! A small TCP load balancer: listens on the first address and forwards each connection to the
//! server with the fewest connections.
//!
//! ```sh
//! cargo run --example plain_tcp -- 127.0.0.1:8000 127.0.0.1:8081 127.0.0.1:8082
//! ```

use std::{net::SocketAddr, num::NonZeroU32, process::ExitCode, sync::Arc, time::Duration};

use leastconn::{
    Address, Balancer, ClientId, Selector, ServerSpec,
    backoff::Backoff,
    health::ActivePolicy,
    net::{Check, Probe, random},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const USAGE: &str = "\
usage: plain_tcp LISTEN SERVER...

  LISTEN   address to listen on: IP:PORT
  SERVER   server address: HOST:PORT, one or more

example: plain_tcp 127.0.0.1:8000 127.0.0.1:8081 127.0.0.1:8082";

struct Arguments {
    listen: SocketAddr,
    servers: Vec<Address>,
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let listen = given.next().ok_or("LISTEN is missing")?;
    let listen = listen
        .parse()
        .map_err(|_| format!("`{listen}` is not an IP address and port"))?;
    let servers: Vec<Address> = given
        .map(|server| {
            server
                .parse()
                .map_err(|error| format!("`{server}`: {error}"))
        })
        .collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err("SERVER is missing".to_owned());
    }
    Ok(Arguments { listen, servers })
}

#[tokio::main]
async fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if given.iter().any(|word| word == "-h" || word == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let arguments = match arguments(given.into_iter()) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = Balancer::builder("servers");
    for address in arguments.servers {
        builder = builder.server(ServerSpec::new(address.to_string(), address));
    }
    let check = Check::new(Probe::Tcp {
        send: None,
        expect: None,
    });
    let policy = ActivePolicy::new(
        const { NonZeroU32::new(2).unwrap() },
        const { NonZeroU32::new(3).unwrap() },
    );
    let balancer = Arc::new(builder.health_check(check, policy).build()?);
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    println!(
        "listening on {}; press Ctrl-C to stop",
        listener.local_addr()?
    );

    let mut connections = JoinSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, peer)) => {
                    backoff.reset();
                    connections.spawn(handle(Arc::clone(&balancer), connection, peer));
                }
                // Accepting can fail, for example when the process is out of file descriptors.
                // Retrying without a delay would be a busy loop.
                Err(error) => {
                    eprintln!("cannot accept: {error}");
                    tokio::time::sleep(backoff.next_delay(random())).await;
                }
            },
            Some(_) = connections.join_next() => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                break;
            }
        }
    }
    println!("{} open connections closed", connections.len());
    for member in balancer.pool().members().iter() {
        let (server, status) = (&member.server, member.server.status());
        let state = if status.is_up() { "up" } else { "down" };
        println!(
            "{}: {state}, {} connections",
            server.id(),
            status.connections
        );
    }
    Ok(())
}

async fn handle(balancer: Arc<Balancer>, connection: TcpStream, peer: SocketAddr) {
    // Disable Nagle's algorithm, which would delay small messages.
    let _ = connection.set_nodelay(true);
    let client = ClientId::from(peer.ip().to_string());
    match balancer
        .balance(connection, &client, &Selector::all())
        .await
    {
        Ok(done) => println!(
            "{peer} -> {}: {} bytes received, {} sent, {}",
            done.server, done.received, done.sent, done.reason
        ),
        Err(error) => println!("{peer}: {error} ({})", error.reason()),
    }
}
