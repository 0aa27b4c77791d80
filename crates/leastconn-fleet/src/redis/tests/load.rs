//! Measures the store: times of the scripts, memory, and traffic. Run it with
//! `cargo nextest run -p leastconn-fleet --run-ignored only --no-capture load`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use leastconn_testkit::{StoreKind, StoreServer};
use tokio::time::Instant;

use super::{failures::report_of, redis, runtime};
use crate::{
    Batch, ClientKey, ClientReport, Counts, Report, ServerCount, ServerKey, SlotReport, Store,
};

const MEMBERS: u64 = 3;
const CONNECTIONS_PER_SECOND: u64 = 1000;
const SECONDS: u64 = 5;
const CLIENTS: u64 = 1000;

/// The value of a field of `INFO`.
async fn info(server: &StoreServer, section: &str, field: &str) -> f64 {
    let text = server.command(&["INFO", section]).await.text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Processor time and calls of scripts.
async fn scripts(server: &StoreServer) -> (f64, f64) {
    let text = server.command(&["INFO", "commandstats"]).await.text();
    let number = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"))?;
        let (_, rest) = line.split_once(name)?;
        rest.split(',').next()?.parse::<f64>().ok()
    };
    let value = |name| number(name).unwrap_or_default();
    (value("usec="), value("calls="))
}

fn client(id: u64, admitted: u32, open: u32) -> ClientReport {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.to_be_bytes());
    ClientReport {
        client: ClientKey(key),
        admitted,
        ask: 0,
        rate: 20.0,
        burst: 20,
        max_conns: 100,
        open,
        used: None,
    }
}

fn report(member: u64, servers: u64) -> Report {
    let mut report = report_of(member);
    let count = |server| ServerCount {
        server: ServerKey(server),
        open: 10,
        dials_per_second: 5.0,
    };
    report.facts = None;
    report.slots.clear();
    report.counts = Arc::new(Counts {
        version: 1,
        servers: (0..servers).map(count).collect(),
    });
    report
}

fn change_counts(report: &mut Report) {
    let mut counts = Counts::clone(&report.counts);
    counts.version += 1;
    report.counts = Arc::new(counts);
}

async fn time_of(server: &StoreServer, what: &str, mut prepare: impl FnMut(u64, &mut Report)) {
    let mut members: Vec<_> = (0..MEMBERS).map(|_| redis(server)).collect();
    let mut reports: Vec<_> = (0..MEMBERS).map(|member| report(member, 20)).collect();
    for (member, report) in members.iter_mut().zip(&reports) {
        member.exchange(report).await.unwrap();
    }
    let before = scripts(server).await;
    const EXCHANGES: u64 = 3000;
    for i in 0..EXCHANGES {
        let member = (i % MEMBERS) as usize;
        prepare(i, &mut reports[member]);
        members[member].exchange(&reports[member]).await.unwrap();
    }
    let after = scripts(server).await;
    let micros = (after.0 - before.0) / EXCHANGES as f64;
    println!("  {what}: {micros:.1} µs an exchange");
}

async fn script_times(server: &StoreServer) {
    time_of(server, "beat, nothing changed", |_, _| {}).await;
    time_of(server, "beat, counts of 20 servers changed", |_, report| {
        change_counts(report);
    })
    .await;
    for clients in [1, 10] {
        time_of(
            server,
            &format!("beat and limit, {clients} clients"),
            |i, report| {
                let reports = (0..clients).map(|client_id| client(i * 7 + client_id, 1, 1));
                report.batch = Some(Arc::new(Batch {
                    number: i + 1,
                    clients: reports.collect(),
                }));
            },
        )
        .await;
    }
    time_of(server, "beat and slots, 10 servers", |i, report| {
        report.slots = (0..10)
            .map(|server| SlotReport {
                server: ServerKey(server),
                max: 20,
                want: (i % 6) as u32,
                open: 0,
            })
            .collect();
    })
    .await;
}

async fn memory(server: &StoreServer) {
    server.command(&["FLUSHALL", "SYNC"]).await;
    let before = info(server, "memory", "used_memory").await;
    const CLIENTS: u64 = 10_000;
    for member in 0..MEMBERS {
        let mut connection = redis(server);
        let mut report = report(member, 20);
        for first in (0..CLIENTS).step_by(500) {
            report.batch = Some(Arc::new(Batch {
                number: first + 1,
                clients: (first..first + 500).map(|id| client(id, 1, 3)).collect(),
            }));
            connection.exchange(&report).await.unwrap();
        }
    }
    let used = info(server, "memory", "used_memory").await - before;
    let client = used / CLIENTS as f64;
    println!("  memory of a client with connections on {MEMBERS} members: {client:.0} B");
}

/// One member: connections of 2 s, reported at once, but at least 2 ms apart.
async fn member(server: &StoreServer, number: u64) -> u64 {
    let mut connection = redis(server);
    let mut report = report(number, 8);
    let gap = Duration::from_micros(1_000_000 * MEMBERS / CONNECTIONS_PER_SECOND);
    let start = Instant::now();
    let (mut opened, mut closed, mut batches, mut exchanges) = (0, 0, 0, 0);
    let mut open: BTreeMap<u64, u32> = BTreeMap::new();
    let of = |connection: u64| (connection * 7919 + number * 104_729) % CLIENTS;
    while start.elapsed() < Duration::from_secs(SECONDS) {
        let due = (start.elapsed().as_nanos() / gap.as_nanos()) as u64;
        let ended = due.saturating_sub(2 * CONNECTIONS_PER_SECOND / MEMBERS);
        let mut changed: BTreeMap<u64, u32> = BTreeMap::new();
        while opened < due {
            *open.entry(of(opened)).or_default() += 1;
            *changed.entry(of(opened)).or_default() += 1;
            opened += 1;
        }
        while closed < ended {
            *open.entry(of(closed)).or_default() -= 1;
            changed.entry(of(closed)).or_default();
            closed += 1;
        }
        if !changed.is_empty() {
            batches += 1;
            let clients = changed
                .iter()
                .map(|(id, admitted)| client(*id, *admitted, open[id]));
            report.batch = Some(Arc::new(Batch {
                number: batches,
                clients: clients.collect(),
            }));
            change_counts(&mut report);
            connection.exchange(&report).await.unwrap();
            exchanges += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    exchanges
}

async fn traffic(server: &StoreServer) {
    server.command(&["FLUSHALL", "SYNC"]).await;
    let fields = [
        ("stats", "total_commands_processed"),
        ("stats", "total_net_input_bytes"),
        ("stats", "total_net_output_bytes"),
        ("cpu", "used_cpu_user"),
        ("cpu", "used_cpu_sys"),
    ];
    let mut before = Vec::new();
    for (section, field) in fields {
        before.push(info(server, section, field).await);
    }
    let (calls, start) = (scripts(server).await.1, Instant::now());
    let (first, second, third) =
        tokio::join!(member(server, 0), member(server, 1), member(server, 2));
    let seconds = start.elapsed().as_secs_f64();
    let exchanges = (first + second + third) as f64 / seconds;
    let calls = (scripts(server).await.1 - calls) / seconds;
    println!(
        "  {CONNECTIONS_PER_SECOND} connections/s over {MEMBERS} members: {exchanges:.0} \
         exchanges/s, {calls:.0} scripts/s"
    );
    for ((section, field), before) in fields.into_iter().zip(before) {
        let rate = (info(server, section, field).await - before) / seconds;
        println!("  {field}: {rate:.3}/s");
    }
}

#[test]
#[ignore = "a measurement"]
fn load() {
    for kind in StoreKind::installed() {
        println!("{kind}");
        runtime().block_on(async {
            let server = StoreServer::start(kind).await;
            script_times(&server).await;
            memory(&server).await;
            traffic(&server).await;
        });
    }
}
