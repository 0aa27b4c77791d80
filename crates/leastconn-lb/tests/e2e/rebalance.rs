//! Quiet connections on servers with more than their share are closed, for clients that permit it.

use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{DEADLINE, Upstream, within};

use crate::support::{CLIENT1, NO_PROBES, Site, TLS, cn, entries};

const CLIENT2: &str = "client2.lb.com";

/// Time limit for a round. A round begins every ten seconds.
const ROUND: Duration = Duration::from_secs(30);

#[tokio::test]
async fn quiet_connections_move_to_an_added_server() {
    let [web1, web2] = [Upstream::named("web1").await, Upstream::named("web2").await];
    let rebalance = "rebalance = { most = \"50%\", quiet = \"200ms\" }";
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES, rebalance], &entries(&[&web1]))
        .client("moves", &cn(CLIENT1), "web", "rebalance = true")
        .client("stays", &cn(CLIENT2), "web", "")
        .start()
        .await;
    let mut streams = Vec::new();
    // The connections of the client that stays are newer, but are not closed.
    for name in [CLIENT1, CLIENT1, CLIENT2, CLIENT2] {
        let mut stream = lb.client(name).connect(lb.main()).await.unwrap();
        assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
        streams.push(stream);
    }
    let both = format!("servers = [{}]", entries(&[&web1, &web2]).join(", "));
    let config = lb.config();
    let only = format!("servers = [{}]", entries(&[&web1]).join(", "));
    assert!(config.contains(&only), "{config}");
    assert_eq!(lb.reload(&config.replace(&only, &both)).await, "applied");

    // Two of four connections are above the mean of two.
    let moving: Vec<_> = streams.drain(..2).collect();
    for mut moved in moving {
        let _ = within(ROUND, "the end", read_to_close(&mut moved)).await;
        let mut back = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        assert_eq!(read_line(&mut back).await.unwrap(), "web2");
        streams.push(back);
    }
    let ended = lb
        .wait_record(|record| record["outcome"] == "rebalanced", DEADLINE)
        .await;
    assert_eq!(
        (&ended["client"], &ended["server"]),
        (&"moves".into(), &"web1".into())
    );
    lb.wait_log(
        |event| event["fields"]["message"] == "connections rebalanced",
        DEADLINE,
    )
    .await;
    drop(streams);
    lb.quiet().await;
}
