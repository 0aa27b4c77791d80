//! The cases of the matrix, and the function that runs and checks one case.

use std::sync::Arc;

use leastconn_testkit::data::pattern;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::DATA;
use super::peer::{End, LATE, Rig, Transport};
use crate::support::{Records, reset};

/// Number of cases that run at the same time.
const PARALLEL: usize = 24;

/// Bytes sent before a RST. They fit into a socket receive buffer, so that the balancer's
/// socket has received all of them before the RST arrives.
const BEFORE_RESET: usize = 40_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// With TLS, `close_notify` and FIN. Without TLS, FIN.
    Orderly,
    /// FIN without `close_notify`.
    Truncated,
    Reset,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    ends: Side,
    client: Transport,
    server: Transport,
    how: How,
    /// Whether the end follows the data directly, if possible in the same segment. Otherwise
    /// the reader has received all data before the end is sent.
    with_data: bool,
    slow_reader: bool,
    policy: &'static str,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for ends in [Side::Client, Side::Server] {
        for (client, server) in pairs() {
            let transport = match ends {
                Side::Client => client,
                Side::Server => server,
            };
            for (how, with_data, slow_reader) in [
                (How::Orderly, true, false),
                (How::Orderly, true, true),
                (How::Orderly, false, false),
                (How::Truncated, true, false),
                (How::Truncated, true, true),
                (How::Truncated, false, false),
                (How::Reset, true, false),
                (How::Reset, true, true),
                (How::Reset, false, false),
            ] {
                let policies: &[_] = match (how, transport) {
                    // Without TLS, every FIN is an orderly end.
                    (How::Truncated, Transport::Plain) => &[],
                    (How::Truncated, _) => &["reset", "close"],
                    _ => &["reset"],
                };
                cases.extend(policies.iter().map(|policy| Case {
                    ends,
                    client,
                    server,
                    how,
                    with_data,
                    slow_reader,
                    policy,
                }));
            }
        }
    }
    cases
}

fn pairs() -> impl Iterator<Item = (Transport, Transport)> {
    let all = Transport::ALL;
    all.into_iter()
        .flat_map(move |client| all.map(|server| (client, server)))
}

pub(super) async fn run(records: Records) {
    let rig = Arc::new(Rig::start(records, &[]).await);
    let permits = Arc::new(Semaphore::new(PARALLEL));
    let mut running = JoinSet::new();
    for case in cases() {
        let (rig, permits) = (Arc::clone(&rig), Arc::clone(&permits));
        running.spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            check(&rig, case).await.err()
        });
    }
    let failures: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{records}:\n{}", failures.join("\n"));
    rig.quiet().await;
}

/// Lets one side send data and end its stream, and checks what the other side receives.
async fn check(rig: &Rig, case: Case) -> Result<(), String> {
    let (client, server) = rig.connect(case.client, case.server, case.policy).await;
    let source = client.local_addr();
    let (mut sender, mut reader) = match case.ends {
        Side::Client => (client, server),
        Side::Server => (server, client),
    };
    let sent = match case.how {
        How::Reset => pattern(0, BEFORE_RESET),
        _ => pattern(0, DATA),
    };
    let mut received = Vec::new();
    let mut sender_socket = None;
    if case.with_data {
        if case.how != How::Reset {
            sender.cork();
        }
        // The balancer can buffer all of this data, even if the reader is slow.
        sender.send(&sent).await;
    } else {
        let (_, all) = tokio::join!(sender.send(&sent), reader.read_exact(sent.len()));
        received = all;
    }
    match case.how {
        How::Orderly => sender.finish().await,
        How::Truncated => sender_socket = Some(sender.truncate()),
        How::Reset => reset(sender.into_socket()),
    }
    if case.slow_reader {
        sleep(LATE).await;
    }
    let (rest, end) = reader.read_to_end().await;
    received.extend(rest);
    let is_orderly =
        case.how == How::Orderly || case.how == How::Truncated && case.policy == "close";
    if is_orderly {
        // The opposite direction stays open.
        reader.send(b"answer").await;
        reader.finish().await;
    }
    let record = rig.record(source).await;
    let outcome = match (case.how, case.ends) {
        (How::Orderly, _) => "ok",
        (How::Truncated, Side::Client) => "client_truncated",
        (How::Truncated, Side::Server) => "server_truncated",
        (How::Reset, Side::Client) => "client_reset",
        (How::Reset, Side::Server) => "server_reset",
    };
    drop(sender_socket);
    let expected = if is_orderly { End::Orderly } else { End::Reset };
    if received == sent && end == expected && record["outcome"] == outcome {
        return Ok(());
    }
    let whole = if received == sent {
        ""
    } else {
        ", content differs"
    };
    Err(format!(
        "{case:?}: {} of {} bytes{whole}, then {end:?}, outcome {}",
        received.len(),
        sent.len(),
        record["outcome"]
    ))
}
