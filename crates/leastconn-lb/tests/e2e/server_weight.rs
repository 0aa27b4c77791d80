//! `ctl weight` changes the share of a server.

use leastconn_testkit::DEADLINE;
use serde_json::json;

use crate::ctl::{SOCKET, connect, ctl, ctl_json, state_of, two_servers};
use crate::support::Site;

#[tokio::test]
async fn weight_changes_the_share_of_a_server() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    let mut streams = Vec::new();
    let mut open = async |count: usize| -> [usize; 2] {
        for _ in 0..count {
            streams.push(connect(&lb).await);
        }
        ["web1", "web2"].map(|name| streams.iter().filter(|(_, server)| server == name).count())
    };
    assert_eq!(
        ctl(&lb, &["weight", "web/web1", "50%"]).await.ok(),
        "web/web1: weight 0.5 (was 1, configured: 1)\n"
    );
    assert_eq!(open(6).await, [2, 4]);
    let shown = state_of(&lb, 0).await;
    assert_eq!(
        (&shown["weight"], &shown["effective_weight"]),
        (&json!(1), &json!(0.5))
    );
    assert!(ctl(&lb, &["servers"]).await.ok().contains("0.5 of 1"));
    let series = r#"leastconn_server_weight{server="web1",upstream="web"}"#;
    lb.wait_metric(series, 0.5, DEADLINE).await;

    // The override survives a reload, even if the configured weight changes.
    let end = format!("{}\" }}", web1.addr());
    let heavier = lb
        .config()
        .replace(&end, &end.replace(" }", ", weight = 4 }"));
    assert_ne!(heavier, lb.config());
    lb.write_config(&heavier);
    ctl(&lb, &["reload"]).await.ok();
    assert_eq!(state_of(&lb, 0).await["effective_weight"], 2.0);
    let deviations = ctl_json(&lb, &["status"]).await["configuration"]["deviations"].clone();
    assert_eq!(deviations[0]["what"], "web/web1 weight");
    assert_eq!(deviations[0]["is"], "50%");

    assert_eq!(
        ctl(&lb, &["weight", "web/web1", "0"]).await.ok(),
        "web/web1: weight 0 (was 2, configured: 4)\n"
    );
    assert_eq!(open(4).await, [2, 8]);
    let none_left = ctl(&lb, &["weight", "web/web2", "0%"]).await.ok();
    assert!(
        none_left.contains("upstream web has NO server left"),
        "{none_left}"
    );
    ctl(&lb, &["weight", "web/web2", "100%"]).await.ok();
    ctl(&lb, &["weight", "web/web1", "100%"]).await.ok();
    let status = ctl_json(&lb, &["status"]).await;
    assert_eq!(status["configuration"]["deviations"], json!([]));
    assert_eq!(open(1).await, [3, 8]);
    drop(streams);
    lb.quiet().await;
}
