//! After the start, the log lists the version, the addresses and the servers.

use leastconn_testkit::{DEADLINE, Upstream};
use serde_json::Value;

use crate::support::upgrading::message;
use crate::support::{Site, entries, entry, refusing_address};

#[tokio::test]
async fn startup_log_names_version_addresses_and_servers() {
    let (web1, web2) = (Upstream::named("web1").await, Upstream::named("web2").await);
    let mut servers = entries(&[&web1, &web2]);
    servers.push(entry("dead", refusing_address(), ""));
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[], &servers)
        .upstream(
            "spare",
            &["health_check = { type = \"none\" }"],
            &entries(&[&web1]),
        )
        .client("local", "source = \"127.0.0.0/8\"", "web\", \"spare", "")
        .start()
        .await;
    let is_summary = |upstream: &'static str| {
        move |event: &Value| {
            message(event).starts_with("upstream") && event["fields"]["upstream"] == upstream
        }
    };
    let web = lb.wait_log(is_summary("web"), DEADLINE).await;
    assert_eq!(web["fields"]["servers_up"], "2/3", "{web}");
    assert_eq!(web["fields"]["down"], "dead", "{web}");
    assert_eq!(web["level"], "WARN", "{web}");
    let spare = lb.wait_log(is_summary("spare"), DEADLINE).await;
    assert_eq!(spare["fields"]["health_check"], "none", "{spare}");
    let log = lb.stderr();
    let started = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
    for text in [
        &started,
        &format!("http://{}/", lb.admin()),
        &lb.main().to_string(),
        "leastconn.toml",
    ] {
        assert!(log.contains(text), "{text} is missing in:\n{log}");
    }
    lb.quiet().await;
}
