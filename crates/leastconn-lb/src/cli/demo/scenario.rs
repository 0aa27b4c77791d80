//! What happens in the demo, act by act.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    Trouble,
    client::{Call, Client, hang_up},
    output::{bars, heading, line, say},
    setup::{ALICE, BOB, BURST, CAROL, GREEDY, MALLORY, STRANGER, Stage},
};

/// Connections that alice opens to show how they spread.
const CROWD: usize = 90;

/// Tells the whole story, and then goes on until `limit`, or for ever.
pub(super) async fn tell(stage: &Stage, limit: Option<Duration>) -> Result<(), Trouble> {
    // What lies beyond all that a clock can say never comes.
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    // Acts are short, but a person has to be able to read them.
    let pause = limit.map_or(Duration::from_millis(900), |limit| {
        (limit / 15).min(Duration::from_millis(900))
    });
    introduce(stage);
    sleep(pause).await;
    who_gets_in(stage).await?;
    sleep(pause).await;
    too_fast(stage).await?;
    sleep(pause).await;
    let mut crowd = spread(stage).await?;
    sleep(pause).await;
    a_server_dies(stage, &mut crowd).await?;
    sleep(pause).await;
    it_returns(stage, &mut crowd).await?;
    hang_up(crowd).await;
    go_on(stage, end).await
}

fn introduce(stage: &Stage) {
    heading("leastconn demo: a balancer that knows who is connecting");
    say(&format!("balancer    {} (mutual TLS)", stage.balancer));
    say(&format!(
        "dashboard   http://{}/ (open it in a browser while this runs)",
        stage.dashboard
    ));
    say(&format!(
        "files       {} (configuration, certificates, access log)",
        stage.dir.display()
    ));
    for web in &stage.webs {
        say(&format!(
            "{}        {} (says its name, then echoes)",
            web.name, web.address
        ));
    }
    let dir = stage.dir.display();
    say("To join in from another terminal, as alice:");
    say(&format!(
        "  openssl s_client -quiet -connect {} -CAfile {dir}/ca.crt -cert {dir}/{ALICE}.crt -key {dir}/{ALICE}.key",
        stage.balancer
    ));
}

async fn who_gets_in(stage: &Stage) -> Result<(), Trouble> {
    heading("Who gets in: the certificate decides");
    for (name, about) in [
        (ALICE, "may use web1, web2 and web3"),
        (BOB, "may use web3 only"),
        (CAROL, "may use another upstream, not this one"),
        (STRANGER, "has a good certificate, and no rule"),
        (MALLORY, "has a certificate of somebody else's CA"),
    ] {
        let call = stage.client(name)?.call().await?;
        let source = call.source;
        let seen = match &call.server {
            Some(server) => format!("let in, served by {server}"),
            None => {
                let line = stage.outcome(source).await;
                let outcome = line.as_ref().and_then(|line| line["outcome"].as_str());
                format!(
                    "refused: {}",
                    outcome.unwrap_or("(the access log does not say)")
                )
            }
        };
        call.hang_up().await;
        say(&format!("{name:<14} {about:<42} {seen}"));
    }
    Ok(())
}

async fn too_fast(stage: &Stage) -> Result<(), Trouble> {
    heading(&format!(
        "A greedy client: {} connections at once, where {BURST} are allowed",
        BURST + 10
    ));
    let greedy = call_many(&stage.client(GREEDY)?, BURST + 10).await?;
    let alice = stage.client(ALICE)?.call().await?;
    let served = greedy.iter().filter(|call| call.server.is_some()).count();
    let mut limited = 0;
    for call in greedy.iter().filter(|call| call.server.is_none()) {
        let line = stage.outcome(call.source).await;
        limited += usize::from(line.is_some_and(|line| line["outcome"] == "rate_limited"));
    }
    say(&format!(
        "{GREEDY:<14} {served} served, {limited} refused: rate_limited"
    ));
    let server = alice.server.as_deref().unwrap_or("nobody");
    say(&format!("{ALICE:<14} at the same time: served by {server}"));
    hang_up(greedy.into_iter().chain([alice])).await;
    Ok(())
}

async fn spread(stage: &Stage) -> Result<Vec<Call>, Trouble> {
    heading(&format!(
        "Least connections: alice opens {CROWD} and keeps them"
    ));
    let crowd = call_many(&stage.client(ALICE)?, CROWD).await?;
    bars(stage);
    Ok(crowd)
}

async fn a_server_dies(stage: &Stage, crowd: &mut Vec<Call>) -> Result<(), Trouble> {
    let dying = &stage.webs[1];
    heading(&format!("{} dies; alice opens 30 more", dying.name));
    dying.die().await;
    let more = call_many(&stage.client(ALICE)?, 30).await?;
    let served = more.iter().filter(|call| call.server.is_some()).count();
    let (cut_off, others): (Vec<_>, _) = crowd
        .drain(..)
        .partition(|call| call.server.as_deref() == Some(dying.name));
    hang_up(cut_off).await;
    crowd.extend(others);
    crowd.extend(more);
    say(&format!(
        "{served} of 30 served: who was to go to {} was taken to the next best",
        dying.name
    ));
    wait_until(stage, dying.name, |open, up| open == 0 && !up).await;
    bars(stage);
    Ok(())
}

async fn it_returns(stage: &Stage, crowd: &mut Vec<Call>) -> Result<(), Trouble> {
    let dead = &stage.webs[1];
    heading(&format!(
        "{} returns; health checks find it, and it gets the next 30",
        dead.name
    ));
    dead.come_back()?;
    wait_until(stage, dead.name, |_, up| up).await;
    crowd.extend(call_many(&stage.client(ALICE)?, 30).await?);
    bars(stage);
    Ok(())
}

/// Light traffic of everybody, with a picture now and then.
async fn go_on(stage: &Stage, end: Option<Instant>) -> Result<(), Trouble> {
    if end.is_none() {
        heading("And so on, until Ctrl-C");
    }
    let mut open: Vec<Call> = Vec::new();
    for round in 0_u64.. {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let names = [ALICE, ALICE, ALICE, BOB, GREEDY, STRANGER];
        let name = names[(round % names.len() as u64) as usize];
        let call = stage.client(name)?.call().await?;
        open.extend(call.server.is_some().then_some(call));
        if open.len() > 60 {
            hang_up(open.drain(..20)).await;
        }
        if end.is_none() && round % 50 == 49 {
            line("");
            bars(stage);
        }
        let next = Instant::now() + Duration::from_millis(100);
        sleep_until(end.map_or(next, |end| next.min(end))).await;
    }
    hang_up(open).await;
    Ok(())
}

async fn call_many(client: &Client, count: usize) -> Result<Vec<Call>, Trouble> {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        calls.spawn(async move { client.call().await });
    }
    let mut done = Vec::with_capacity(count);
    while let Some(call) = calls.join_next().await {
        done.push(call??);
    }
    Ok(done)
}

/// Waits, for a few seconds at most, for a server to look as it should.
async fn wait_until(stage: &Stage, name: &str, looks: impl Fn(u32, bool) -> bool) {
    let look = async {
        while !stage
            .in_flight()
            .iter()
            .any(|&(server, open, up)| server == name && looks(open, up))
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = timeout(Duration::from_secs(3), look).await;
}
