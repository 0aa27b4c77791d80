//! The steps of the demo.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    DemoError,
    client::{Client, Connection, close_all},
    output::{bars, heading, line, say},
    setup::{ALICE, BOB, BURST, CAROL, Environment, GREEDY, MALLORY, STRANGER},
};

/// Connections that alice opens to show the balancing.
const CONNECTIONS: usize = 90;

/// Runs all steps, then light traffic until `limit` has passed. Without a limit, it never
/// returns.
pub(super) async fn run(
    environment: &Environment,
    limit: Option<Duration>,
) -> Result<(), DemoError> {
    // A `limit` that is too large for an `Instant` is treated as no limit.
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    // Pause after each step, so that its output can be read.
    let pause = limit.map_or(Duration::from_millis(900), |limit| {
        (limit / 15).min(Duration::from_millis(900))
    });
    print_addresses(environment);
    sleep(pause).await;
    authorization(environment).await?;
    sleep(pause).await;
    rate_limit(environment).await?;
    sleep(pause).await;
    let mut open = least_connections(environment).await?;
    sleep(pause).await;
    server_failure(environment, &mut open).await?;
    sleep(pause).await;
    server_recovery(environment, &mut open).await?;
    close_all(open).await;
    light_traffic(environment, end).await
}

fn print_addresses(environment: &Environment) {
    heading("leastconn demo: load balancing with mutual TLS and client authorization");
    say(&format!(
        "balancer    {} (mutual TLS)",
        environment.balancer
    ));
    say(&format!(
        "dashboard   http://{}/ (open it in a browser)",
        environment.dashboard
    ));
    say(&format!(
        "files       {} (configuration, certificates, access log)",
        environment.dir.display()
    ));
    for web in &environment.webs {
        say(&format!(
            "{}        {} (sends its name, then echoes)",
            web.name, web.address
        ));
    }
    let dir = environment.dir.display();
    say("To connect as alice from another terminal:");
    say(&format!(
        "  openssl s_client -quiet -connect {} -CAfile {dir}/ca.crt -cert {dir}/{ALICE}.crt -key {dir}/{ALICE}.key",
        environment.balancer
    ));
}

async fn authorization(environment: &Environment) -> Result<(), DemoError> {
    heading("Authorization by client certificate");
    for (name, description) in [
        (ALICE, "rule allows web1, web2 and web3"),
        (BOB, "rule allows web3"),
        (CAROL, "rule allows another upstream"),
        (STRANGER, "trusted certificate, no rule"),
        (MALLORY, "certificate of another CA"),
    ] {
        let connection = environment.client(name)?.connect().await?;
        let source = connection.source;
        let result = match &connection.server {
            Some(server) => format!("accepted, served by {server}"),
            None => {
                let line = environment.outcome(source).await;
                let outcome = line.as_ref().and_then(|line| line["outcome"].as_str());
                format!("refused: {}", outcome.unwrap_or("(not in the access log)"))
            }
        };
        connection.close().await;
        say(&format!("{name:<14} {description:<33} {result}"));
    }
    Ok(())
}

async fn rate_limit(environment: &Environment) -> Result<(), DemoError> {
    heading(&format!(
        "Rate limit: {} connections at once, {BURST} allowed",
        BURST + 10
    ));
    let greedy = connect_many(&environment.client(GREEDY)?, BURST + 10).await?;
    let alice = environment.client(ALICE)?.connect().await?;
    let served = greedy
        .iter()
        .filter(|connection| connection.server.is_some())
        .count();
    let mut limited = 0;
    for connection in greedy
        .iter()
        .filter(|connection| connection.server.is_none())
    {
        let line = environment.outcome(connection.source).await;
        limited += usize::from(line.is_some_and(|line| line["outcome"] == "rate_limited"));
    }
    say(&format!(
        "{GREEDY:<14} {served} served, {limited} refused: rate_limited"
    ));
    let server = alice.server.as_deref().unwrap_or("no server");
    say(&format!("{ALICE:<14} at the same time: served by {server}"));
    close_all(greedy.into_iter().chain([alice])).await;
    Ok(())
}

async fn least_connections(environment: &Environment) -> Result<Vec<Connection>, DemoError> {
    heading(&format!(
        "Least connections: alice opens {CONNECTIONS} connections"
    ));
    let open = connect_many(&environment.client(ALICE)?, CONNECTIONS).await?;
    bars(environment);
    Ok(open)
}

async fn server_failure(
    environment: &Environment,
    open: &mut Vec<Connection>,
) -> Result<(), DemoError> {
    let failed = &environment.webs[1];
    heading(&format!(
        "Server failure: {} stops; alice opens 30 more connections",
        failed.name
    ));
    failed.stop().await;
    let more = connect_many(&environment.client(ALICE)?, 30).await?;
    let served = more
        .iter()
        .filter(|connection| connection.server.is_some())
        .count();
    let (cut_off, others): (Vec<_>, _) = open
        .drain(..)
        .partition(|connection| connection.server.as_deref() == Some(failed.name));
    close_all(cut_off).await;
    open.extend(others);
    open.extend(more);
    say(&format!(
        "{served} of 30 served: failed connects to {} were retried on another server",
        failed.name
    ));
    wait_until(environment, failed.name, |open, up| open == 0 && !up).await;
    bars(environment);
    Ok(())
}

async fn server_recovery(
    environment: &Environment,
    open: &mut Vec<Connection>,
) -> Result<(), DemoError> {
    let recovered = &environment.webs[1];
    heading(&format!(
        "Recovery: {} starts and passes its health checks; alice opens 30 more connections",
        recovered.name
    ));
    recovered.restart()?;
    wait_until(environment, recovered.name, |_, up| up).await;
    open.extend(connect_many(&environment.client(ALICE)?, 30).await?);
    bars(environment);
    Ok(())
}

/// Generates light traffic from all clients, and periodically prints the open connections.
async fn light_traffic(environment: &Environment, end: Option<Instant>) -> Result<(), DemoError> {
    if end.is_none() {
        heading("Light traffic until Ctrl-C");
    }
    let mut open: Vec<Connection> = Vec::new();
    for round in 0_u64.. {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let names = [ALICE, ALICE, ALICE, BOB, GREEDY, STRANGER];
        let name = names[(round % names.len() as u64) as usize];
        let connection = environment.client(name)?.connect().await?;
        open.extend(connection.server.is_some().then_some(connection));
        if open.len() > 60 {
            close_all(open.drain(..20)).await;
        }
        if end.is_none() && round % 50 == 49 {
            line("");
            bars(environment);
        }
        let next = Instant::now() + Duration::from_millis(100);
        sleep_until(end.map_or(next, |end| next.min(end))).await;
    }
    close_all(open).await;
    Ok(())
}

async fn connect_many(client: &Client, count: usize) -> Result<Vec<Connection>, DemoError> {
    let mut connecting = tokio::task::JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        connecting.spawn(async move { client.connect().await });
    }
    let mut done = Vec::with_capacity(count);
    while let Some(connection) = connecting.join_next().await {
        done.push(connection??);
    }
    Ok(done)
}

/// Waits up to 3 seconds until `condition` holds for the server `name`. The condition checks the
/// number of open connections and the health.
async fn wait_until(environment: &Environment, name: &str, condition: impl Fn(u32, bool) -> bool) {
    let poll = async {
        while !environment
            .in_flight()
            .iter()
            .any(|&(server, open, up)| server == name && condition(open, up))
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = timeout(Duration::from_secs(3), poll).await;
}
