//! Servers at UNIX sockets: connections, health checks, and upstreams with both kinds of
//! address.

use std::path::{Path, PathBuf};

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::data::pattern;
use leastconn_testkit::{DEADLINE, TempDir, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Site, TLS, both_record_layers, cn, entry, talk, tcp,
};

both_record_layers! {
    #[tokio::test]
    unix_server_is_reached_through_tls,
}

/// Sends the server's name as a line, then echoes. A health check closes its connection
/// immediately.
pub(crate) fn serve(path: &Path, name: &'static str) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    })
}

fn unix(name: &str, path: &Path) -> String {
    format!(
        "{{ name = \"{name}\", address = \"unix:{}\" }}",
        path.display()
    )
}

fn socket() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.sock");
    (dir, path)
}

async fn unix_server_is_reached_through_tls(records: Records) {
    let (_dir, path) = socket();
    let _server = serve(&path, "app");
    let lb = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &[unix("app1", &path)])
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    assert_eq!(talk(stream).await.unwrap(), "app");
    let record = lb.expect_record(0, "ok").await;
    assert_eq!(record["server"], "app1");
    lb.quiet().await;
}

#[tokio::test]
async fn large_transfer_between_tcp_and_unix() {
    let (_dir, path) = socket();
    let _server = serve(&path, "app");
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &[unix("app1", &path)])
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    // More data than a pipe holds, so that splicing is tested.
    let sent = pattern(3, 4_000_000);
    let mut stream = tcp(lb.main()).await;
    assert_eq!(read_line(&mut stream).await.unwrap(), "app");
    assert!(roundtrip(&mut stream, &sent).await.unwrap() == sent);
    stream.shutdown().await.unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    let record = lb.expect_record(0, "ok").await;
    assert_eq!(record["bytes_received"], sent.len());
    lb.quiet().await;
}

/// UNIX servers work inside the sandbox, which is on by default.
#[tokio::test]
async fn health_check_detects_a_removed_socket() {
    let (_dir, path) = socket();
    let other = Upstream::named("tcp").await;
    let check = r#"health_check = { type = "tcp", interval = "100ms", timeout = "100ms", rise = 1, fall = 1 }"#;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(
            "web",
            &[check],
            &[unix("app1", &path), entry("tcp1", other.addr(), "")],
        )
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    let up = "leastconn_server_up{upstream=\"web\",server=\"app1\"}";
    let wait = async |value: f64| lb.wait_metric(up, value, DEADLINE).await;
    wait(0.0).await;
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "tcp");
    let server = serve(&path, "app");
    wait(1.0).await;
    // The first connection stays open, so the second connection goes to the other server.
    let mut names = Vec::new();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = tcp(lb.main()).await;
        names.push(read_line(&mut stream).await.unwrap());
        open.push(stream);
    }
    names.sort();
    assert_eq!(names, ["app", "tcp"]);
    drop(open);
    server.abort();
    std::fs::remove_file(&path).unwrap();
    wait(0.0).await;
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "tcp");
    lb.wait_records(4).await;
    lb.quiet().await;
}
