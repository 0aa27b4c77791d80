//! Listeners at UNIX sockets.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::data::pattern;
use leastconn_testkit::{Behaviour, DEADLINE, Signal, Upstream};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, cn, entries, talk,
};

both_record_layers! {
    #[tokio::test]
    tls_client_is_served_over_unix,
}

fn plain(web: &Upstream, lines: &str) -> Site {
    Site::new()
        .listener(
            "main",
            &["upstream = \"web\"", "bind = \"unix:lb.sock\"", lines],
        )
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("local", "source = \"127.0.0.1\"", "web", "")
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert!(metadata.file_type().is_socket());
    metadata.permissions().mode() & 0o777
}

async fn connect(lb: &Running) -> UnixStream {
    UnixStream::connect(lb.dir().join("lb.sock")).await.unwrap()
}

#[tokio::test]
async fn plain_client_is_served_and_logged_by_process() {
    let web = Upstream::named("web1").await;
    let lb = plain(&web, "").start().await;
    let path = lb.dir().join("lb.sock");
    assert_eq!(mode(&path), 0o600);
    let mut stream = connect(&lb).await;
    assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
    let sent = pattern(5, 3_000_000);
    assert!(roundtrip(&mut stream, &sent).await.unwrap() == sent);
    stream.shutdown().await.unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    let record = lb.expect_record(0, "ok").await;
    let uid = rustix::process::getuid().as_raw();
    let source = format!("unix:pid={},uid={uid}", std::process::id());
    assert_eq!(record["source"], source);
    assert_eq!(record["identity"], "source:127.0.0.1");
    let (_, status) = lb.http_get("/api/v1/status").await;
    assert!(
        status.contains(&format!("unix:{}", path.display())),
        "{status}"
    );
    lb.quiet().await;
    lb.signal(Signal::TERM);
    lb.wait_exit(DEADLINE).await;
    assert!(!path.exists());
}

async fn tls_client_is_served_over_unix(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .records(records)
        .listener(
            "main",
            &[
                "upstream = \"web\"",
                "bind = \"unix:lb.sock\"",
                "bind_mode = \"0660\"",
                TLS,
            ],
        )
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    assert_eq!(mode(&lb.dir().join("lb.sock")), 0o660);
    let stream = connect(&lb).await;
    let tls = lb
        .client(CLIENT1)
        .handshake(stream, "localhost")
        .await
        .unwrap();
    assert_eq!(talk(tls).await.unwrap(), "web1");
    assert_eq!(
        lb.expect_record(0, "ok").await["identity"],
        "cn:client1.lb.com"
    );
    lb.quiet().await;
}

#[tokio::test]
async fn reload_opens_changes_and_closes_sockets() {
    let web = Upstream::named("web1").await;
    let lb = plain(&web, "").start().await;
    let mut open = connect(&lb).await;
    read_line(&mut open).await.unwrap();
    let both = lb.config().replace(
        "bind = \"unix:lb.sock\"",
        "bind = [\"unix:lb.sock\", \"unix:other.sock\", \"127.0.0.1:0\"]\nbind_mode = \"0666\"",
    );
    assert_eq!(lb.reload(&both).await, "applied");
    let other = lb.dir().join("other.sock");
    assert_eq!(mode(&lb.dir().join("lb.sock")), 0o666);
    assert_eq!(mode(&other), 0o666);
    assert_eq!(
        talk(UnixStream::connect(&other).await.unwrap())
            .await
            .unwrap(),
        "web1"
    );
    let moved = lb.config().replace("unix:lb.sock", "unix:other.sock");
    assert_eq!(lb.reload(&moved).await, "applied");
    assert!(!lb.dir().join("lb.sock").exists());
    assert_eq!(mode(&other), 0o600);
    // The open connection is kept.
    assert_eq!(roundtrip(&mut open, b"x").await.unwrap(), b"x");
    assert_eq!(
        talk(UnixStream::connect(&other).await.unwrap())
            .await
            .unwrap(),
        "web1"
    );
    // A regular file at the path is not replaced, and the reload is rejected.
    fs::write(lb.dir().join("file"), "precious").unwrap();
    let wrong = lb.config().replace("unix:lb.sock", "unix:file");
    assert_eq!(lb.reload(&wrong).await, "rejected");
    assert_eq!(
        fs::read_to_string(lb.dir().join("file")).unwrap(),
        "precious"
    );
    assert!(other.exists());
    drop(open);
    lb.wait_records(3).await;
    lb.quiet().await;
}

#[tokio::test]
async fn stale_socket_is_replaced() {
    let web = Upstream::named("web1").await;
    let site = plain(&web, "");
    drop(std::os::unix::net::UnixListener::bind(site.dir.path().join("lb.sock")).unwrap());
    let lb = site.start().await;
    assert_eq!(talk(connect(&lb).await).await.unwrap(), "web1");
    lb.expect_record(0, "ok").await;
    lb.quiet().await;
}

#[tokio::test]
async fn proxy_header_without_client_address() {
    let web = Upstream::start(Behaviour::ProxyHeader).await;
    for version in ["v1", "v2", "v2-tls"] {
        let lb = Site::new()
            .listener("main", &["upstream = \"web\"", "bind = \"unix:lb.sock\""])
            .upstream(
                "web",
                &[NO_PROBES, &format!("proxy_protocol = \"{version}\"")],
                &entries(&[&web]),
            )
            .client("local", "source = \"127.0.0.1\"", "web", "")
            .start()
            .await;
        let mut stream = connect(&lb).await;
        let line = read_line(&mut stream).await.unwrap();
        assert!(
            !line.contains("127.0.0.1") && !line.contains("no header"),
            "{line}"
        );
        drop(stream);
        lb.wait_records(1).await;
        lb.quiet().await;
    }
}
