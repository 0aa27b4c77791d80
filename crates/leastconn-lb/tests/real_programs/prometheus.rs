//! promtool checks the output of a scrape and the shipped alert rules.

use std::{collections::BTreeSet, fs, process::Stdio};

use tokio::io::AsyncWriteExt;

use crate::{
    program::{LIMIT, run, tool},
    site::{Site, repository},
};

#[tokio::test]
async fn promtool_accepts_a_scrape() {
    let site = Site::start_with(|config| config).await;
    site.page("client1").await.ok();
    let (status, text) = site.balancer.http_get("/metrics").await;
    assert_eq!(status, 200);
    let mut promtool = tool("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(text.as_bytes()).await.unwrap();
    drop(input);
    let output = leastconn_testkit::within(LIMIT, "promtool", promtool.wait_with_output()).await;
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8(text).unwrap(), "");
    assert!(output.status.success());
    site.finish().await;
}

#[tokio::test]
async fn promtool_accepts_and_tests_the_alerts() {
    let dir = repository().join("deploy/prometheus");
    for (what, file) in [
        (["check", "config"], "prometheus.yml"),
        (["check", "rules"], "leastconn-rules.yml"),
        (["test", "rules"], "leastconn-rules.test.yml"),
    ] {
        run(tool("promtool").args(what).arg(file).current_dir(&dir))
            .await
            .ok();
    }
    // Every alert has a test in which it fires, and a test in which it does not fire.
    let rules = fs::read_to_string(dir.join("leastconn-rules.yml")).unwrap();
    let tests = fs::read_to_string(dir.join("leastconn-rules.test.yml")).unwrap();
    let alerts: BTreeSet<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let silent = format!("{{eval_time: 6h, alertname: {alert}}}");
        assert!(
            tests.contains(&silent),
            "no test checks that {alert} does not fire"
        );
        let fires = format!("alertname: {alert}\n        exp_alerts:");
        assert!(tests.contains(&fires), "no test checks that {alert} fires");
    }
}
