//! Counters of connections per client rule: refused, failed, ended.

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{DEADLINE, Upstream, eventually};
use serde_json::Value;

use crate::ctl::{SOCKET, ctl};
use crate::support::{
    CLIENT1, NO_PROBES, Site, TLS, cn, entries, entry, refused, refusing_address, talk,
};

#[tokio::test]
async fn outcomes_are_counted_per_rule() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .admin(SOCKET)
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("dead", &["upstream = \"dead\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream(
            "dead",
            &[NO_PROBES, "retry_for = \"0s\""],
            &[entry("gone", refusing_address(), "")],
        )
        .client("client1", &cn(CLIENT1), "web\", \"dead", "max_conns = 2")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.wait_records(1).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = client.connect(lb.main()).await.unwrap();
        assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
        open.push(stream);
    }
    // Refused: three connections above `max_conns`.
    for n in 2..5 {
        refused(&client, lb.main()).await;
        lb.wait_records(n).await;
    }
    // Failed: the connection is killed while it is connected to a server.
    let listed = ctl(&lb, &["connections", "--json"]).await.ok();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let id = listed["connections"][0]["connection"].to_string();
    ctl(&lb, &["kill", "--connection", &id]).await.ok();
    lb.wait_records(5).await;
    // Refused: no server could be reached.
    let _ = read_to_close(&mut client.connect(lb.address("dead")).await.unwrap()).await;
    lb.wait_records(6).await;

    let expected = [1_u64, 7, 4, 1, 1];
    eventually(DEADLINE, || async {
        let text = ctl(&lb, &["clients", "--json"]).await.ok();
        let answer: Value = serde_json::from_str(&text).unwrap();
        let rule = &answer["clients"][0];
        let fields = ["active", "connections", "refused", "failed", "ended"];
        let counts = fields.map(|field| rule[field].as_u64().unwrap());
        (counts == expected).then_some(()).ok_or(text)
    })
    .await
    .unwrap();
    let table = ctl(&lb, &["clients"]).await.ok();
    let cells = |line: usize| -> Vec<String> {
        let line = table.lines().nth(line).unwrap();
        let cells = line.split_whitespace().map(str::to_owned);
        cells.skip(1).take(5).collect()
    };
    assert_eq!(
        cells(0),
        ["OPEN", "CONNECTIONS", "REFUSED", "FAILED", "ENDED"]
    );
    assert_eq!(cells(1), expected.map(|count| count.to_string()));
    drop(open);
    lb.quiet().await;
}
