//! Metric series follow the configuration: the series of a removed name disappear when its
//! last connection has ended.

use std::fs;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Port, Upstream, eventually, metrics};
use tokio::io::AsyncWriteExt;

use crate::support::{NO_PROBES, Running, Site, TLS, cn, entry, talk};

/// Returns the series whose name or labels contain `value`.
async fn with_label(lb: &Running, value: &str) -> Vec<String> {
    let all = lb.metrics().await;
    let found = all.iter().filter(|(key, _)| key.contains(value));
    found.map(|(key, value)| format!("{key} {value}")).collect()
}

async fn wait_gone(lb: &Running, value: &str) {
    eventually(DEADLINE, || async {
        let left = with_label(lb, value).await;
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    })
    .await
    .unwrap();
}

async fn value(lb: &Running, key: &str) -> Option<f64> {
    lb.metrics().await.get(&metrics::normalise(key)).copied()
}

/// Returns the configuration without the tables that have these names.
fn without(config: &str, names: &[&str]) -> String {
    let tables = config.split("\n[[");
    let kept = tables.filter(|table| {
        let mut lines = table.lines().take(2);
        !lines.any(|line| {
            let name = line.strip_prefix("name = ").unwrap_or_default();
            names.contains(&name.trim_matches('"'))
        })
    });
    kept.collect::<Vec<_>>().join("\n[[")
}

/// `Site::usual`, plus a listener, an upstream and rules that the tests remove.
async fn start_with_removable(webs: &[Upstream; 2], second: &Port) -> Running {
    let site = Site::usual(&[&webs[0]])
        .listener(
            "second",
            &[
                &format!("bind = \"{}\"", second.address),
                "upstream = \"other\"",
                &TLS.replace("server.crt", "second.crt"),
            ],
        )
        .upstream("other", &[NO_PROBES], &[entry("web2", webs[1].addr(), "")])
        .client("trial", &cn("old.lb.com"), "web", "mode = \"shadow\"")
        .client("old", &cn("old.lb.com"), "web\", \"other", "")
        .client("any", r#"source = "127.0.0.0/8""#, "web\", \"other", "");
    let file = |name: &str| site.dir.path().join(name);
    fs::copy(file("server.crt"), file("second.crt")).unwrap();
    site.start().await
}

#[tokio::test]
async fn series_of_removed_names_disappear() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let second = Port::reserve();
    let lb = start_with_removable(&webs, &second).await;
    let (old, full) = (lb.client("old.lb.com"), lb.config());
    for addr in [lb.main(), second.address] {
        talk(old.connect(addr).await.unwrap()).await.unwrap();
    }
    lb.wait_records(2).await;
    let removed = [
        "\"second\"",
        "\"other\"",
        "\"web2\"",
        "\"old\"",
        "\"trial\"",
    ];
    for name in removed.into_iter().chain(["second.crt"]) {
        assert!(!with_label(&lb, name).await.is_empty(), "{name}");
    }
    let reduced = without(
        &full.replace("\"web\", \"other\"", "\"web\""),
        &["second", "other", "trial", "old"],
    );
    assert_eq!(lb.reload(&reduced).await, "applied", "{reduced}");
    for name in removed.into_iter().chain(["second.crt"]) {
        wait_gone(&lb, name).await;
    }
    let ok = r#"leastconn_connections_total{listener="main",outcome="ok"}"#;
    assert_eq!(
        value(&lb, ok).await,
        Some(1.0),
        "other series must keep their values"
    );

    // A renamed rule counts as a new rule, and a name that is added again starts at 0.
    let renamed = full.replace("name = \"any\"", "name = \"all\"");
    talk(lb.client("any").connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.wait_metric(
        r#"leastconn_client_connections_total{client="any",outcome="ok"}"#,
        1.0,
        DEADLINE,
    )
    .await;
    assert_eq!(lb.reload(&renamed).await, "applied");
    wait_gone(&lb, "client=\"any\"").await;
    let ok = r#"leastconn_connections_total{listener="second",outcome="ok"}"#;
    assert_eq!(value(&lb, ok).await, Some(0.0));
    assert_eq!(with_label(&lb, "client=\"old\"").await, [""; 0]);
    talk(old.connect(second.address).await.unwrap())
        .await
        .unwrap();
    lb.wait_metric(ok, 1.0, DEADLINE).await;
    for key in [
        r#"leastconn_client_connections_total{client="old",outcome="ok"}"#,
        r#"leastconn_server_connections_total{upstream="other",server="web2"}"#,
    ] {
        lb.wait_metric(key, 1.0, DEADLINE).await;
    }
    lb.idle().await;
}

#[tokio::test]
async fn gauges_stay_until_connections_end() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let second = Port::reserve();
    let lb = start_with_removable(&webs, &second).await;
    let full = lb.config();
    let mut open = lb.client("any").connect(second.address).await.unwrap();
    assert_eq!(read_line(&mut open).await.unwrap(), "web2");
    let gauges = [
        r#"leastconn_connections_active{listener="second"}"#,
        r#"leastconn_server_connections_active{upstream="other",server="web2"}"#,
        r#"leastconn_client_connections_active{client="all"}"#,
    ];
    let reduced = without(&full, &["second", "old", "trial"])
        .replace("name = \"any\"", "name = \"all\"")
        .replace(
            &entry("web2", webs[1].addr(), ""),
            &entry("web3", webs[0].addr(), ""),
        );
    // The second reload must also keep these series.
    for text in [&reduced, &reduced] {
        assert_eq!(lb.reload(text).await, "applied", "{text}");
        for gauge in gauges {
            assert_eq!(value(&lb, gauge).await, Some(1.0), "{gauge}");
        }
        assert_eq!(with_label(&lb, "client=\"any\"").await, [""; 0]);
        assert_eq!(with_label(&lb, "second.crt").await, [""; 0]);
    }
    let up = r#"leastconn_server_up{upstream="other",server="web2"}"#;
    assert_eq!(value(&lb, up).await, None);
    assert_eq!(roundtrip(&mut open, b"on").await.unwrap(), b"on");
    open.shutdown().await.unwrap();
    read_to_close(&mut open).await.unwrap();
    for name in ["\"second\"", "\"web2\""] {
        wait_gone(&lb, name).await;
    }
    lb.wait_metric(gauges[2], 0.0, DEADLINE).await;
    assert_eq!(lb.reload(&full).await, "applied");
    assert_eq!(value(&lb, gauges[0]).await, Some(0.0));
    assert_eq!(value(&lb, gauges[1]).await, Some(0.0));
    let old = lb.client("old.lb.com").connect(second.address).await;
    talk(old.unwrap()).await.unwrap();
    let ok = r#"leastconn_connections_total{listener="second",outcome="ok"}"#;
    lb.wait_metric(ok, 1.0, DEADLINE).await;
    lb.idle().await;
}
