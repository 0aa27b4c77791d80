use super::*;
use crate::client::read_to_close;
use crate::within;
use tokio::net::TcpListener;

/// The program that these tests run instead of the balancer. The shell executes the script
/// `run`, because that is its first argument. Executing the script directly may fail with
/// ETXTBSY, because a process forked by another test may have it open for writing.
const SHELL: &str = "/bin/sh";

fn script(dir: &Path, body: &str) {
    std::fs::write(dir.join("run"), body).unwrap();
}

fn listening_event(listener: &str, address: SocketAddr) -> String {
    format!(
        r#"echo '{{"fields":{{"message":"listening","listener":"{listener}","address":"{address}"}}}}' >&2"#
    )
}

const READY: &str = r#"echo '{"fields":{"message":"ready"}}' >&2"#;

#[tokio::test]
async fn log_records_and_exit_are_observed() {
    let dir = tempfile::tempdir().unwrap();
    let main = "127.0.0.1:9443".parse().unwrap();
    let body = [
        "trap 'echo \"{\\\"outcome\\\":\\\"drained\\\"}\"; exit 3' TERM",
        "echo not JSON >&2",
        &listening_event("main", main),
        READY,
        r#"echo '{"outcome":"ok"}'"#,
        "grep -q json $2 && while :; do sleep 0.02; done",
    ];
    script(dir.path(), &body.join("\n"));
    let balancer = Balancer::start(SHELL, "[process]\nworkers = 1\n", &dir)
        .await
        .unwrap();
    assert_eq!(balancer.address("main"), main);
    assert_eq!(balancer.wait_address("main").await, main);
    assert_eq!(balancer.try_address("other"), None);
    assert!(balancer.open_fds() >= 3);
    assert_eq!(balancer.wait_records(1).await[0]["outcome"], "ok");
    balancer.signal(Signal::TERM);
    balancer
        .wait_record(|record| record["outcome"] == "drained", DEADLINE)
        .await;
    assert_eq!(balancer.wait_exit(DEADLINE).await.code(), Some(3));
    // Signals after the exit are ignored.
    balancer.signal(Signal::KILL);
    assert_eq!(balancer.wait_exit(DEADLINE).await.code(), Some(3));
}

#[tokio::test]
async fn early_exit_reports_stderr() {
    let dir = tempfile::tempdir().unwrap();
    script(dir.path(), "echo 'unknown key' >&2; exit 2");
    let error = Balancer::start(SHELL, "", &dir).await.unwrap_err();
    assert_eq!(error.status.unwrap().code(), Some(2));
    assert!(error.to_string().contains("unknown key"), "{error}");
}

#[tokio::test]
async fn idle_means_gauges_are_zero() {
    let dir = tempfile::tempdir().unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let body = [
        &listening_event("admin", admin.local_addr().unwrap()),
        READY,
        "exec sleep 60",
    ];
    script(dir.path(), &body.join("\n"));
    let balancer = Balancer::start(SHELL, "", &dir).await.unwrap();
    let respond = async {
        for active in [2, 1, 0, 0] {
            let (mut stream, _) = admin.accept().await.unwrap();
            let mut head = [0; 4];
            stream.read_exact(&mut head).await.unwrap();
            let response = format!(
                "HTTP/1.0 200 OK\r\n\r\n# TYPE x gauge\n\
                 leastconn_connections_active{{listener=\"main\"}} {active}\n"
            );
            stream.write_all(response.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ = read_to_close(&mut stream).await;
        }
    };
    let wait = async {
        balancer.assert_idle(balancer.open_fds()).await;
        let name = r#"leastconn_connections_active{listener="main"}"#;
        balancer.wait_metric(name, 0.0, DEADLINE).await;
    };
    within(DEADLINE, "four responses", async {
        tokio::join!(respond, wait)
    })
    .await;
}

#[test]
fn log_format_defaults_to_json() {
    assert!(with_json_log("a = 1").ends_with("\n[log]\nformat = \"json\"\n"));
    let set = "[log]\nlevel = \"debug\"\nformat = \"text\"\n";
    assert_eq!(with_json_log(set), set);
    let other = with_json_log("[log]\nlevel = \"debug\"\n[admin]\nformat = 1\n");
    assert!(
        other.starts_with("[log]\nformat = \"json\"\nlevel"),
        "{other}"
    );
}
