//! Access control at the admin address: which clients may read, and which may make changes.

use std::net::SocketAddr;
use std::time::Duration;

use leastconn_testkit::{DEADLINE, Upstream, eventually, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ctl::{SOCKET, ctl};
use crate::support::{Running, Site, tcp};

const TOKEN: &str = "a-token-for-tests-only";

/// Sends a request, and returns the status, the head and the body of the answer.
async fn send(addr: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = tcp(addr).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(&mut stream).await
}

async fn answer(stream: &mut TcpStream) -> (u16, String, String) {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // The read may fail: if the balancer closes the connection with unread data, a RST follows
    // the answer.
    let _ = within(DEADLINE, "the answer", read).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or(0), head.to_lowercase(), body.to_owned())
}

fn post(path: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect();
    format!(
        "POST /api/v1/{path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

const DRAIN: &str = "servers/web/web1/state";
const TO_DRAIN: &str = r#"{"state":"drain"}"#;
const JSON: &str = "content-type: application/json";

async fn server_state(lb: &Running) -> String {
    lb.servers().await[0]["state"].as_str().unwrap().to_owned()
}

/// Returns the `changes` field of the status, as read at the admin address and at the admin
/// socket.
async fn changes(lb: &Running) -> (Value, Value) {
    let (_, body) = lb.http_get("/api/v1/status").await;
    let at_address: Value = serde_json::from_str(&body).unwrap();
    let status = ctl(lb, &["status", "--json"]).await.ok();
    let at_socket: Value = serde_json::from_str(&status).unwrap();
    (at_address["changes"].clone(), at_socket["changes"].clone())
}

#[tokio::test]
async fn permissions_are_reported_and_follow_a_reload() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web]).admin(SOCKET).start().await;
    let (socket_only, allowed) = ("socket_only".into(), "allowed".into());
    assert_eq!(changes(&lb).await, (socket_only, allowed));
    std::fs::write(lb.dir().join("token"), TOKEN).unwrap();
    let with_token = lb
        .config()
        .replace(SOCKET, &format!("{SOCKET}\ntoken = \"token\""));
    assert_eq!(lb.reload(&with_token).await, "applied");
    let (with_token, allowed) = ("with_token".into(), "allowed".into());
    assert_eq!(changes(&lb).await, (with_token, allowed));
    lb.quiet().await;
}

fn error(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body:?}"));
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn changes_without_a_token_are_refused() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web]).start().await;
    let host = format!("host: {}", lb.admin());
    for path in [DRAIN, "connections/kill", "reload", "log-level", "nothing"] {
        let (status, head, body) = send(lb.admin(), &post(path, &[&host, JSON], "{}")).await;
        assert_eq!(status, 403, "{path}: {body}");
        assert!(error(&body).contains("configure a `token`"), "{body}");
        assert!(head.contains("content-type: application/json"), "{head}");
    }
    assert_eq!(server_state(&lb).await, "ready");
    assert_eq!(lb.reloads().await, [0.0, 0.0]);
    lb.quiet().await;
}

#[tokio::test]
async fn changes_need_the_token_and_same_origin() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web])
        .admin("token = \"token\"")
        .admin(SOCKET);
    std::fs::write(site.dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let lb = site.start().await;
    let admin = lb.admin();
    let host = format!("host: {admin}");
    let bearer = format!("authorization: Bearer {TOKEN}");
    let refused = async |headers: &[&str], expected: u16| {
        let (status, head, body) = send(admin, &post(DRAIN, headers, TO_DRAIN)).await;
        assert_eq!(status, expected, "{headers:?}: {body}");
        assert!(!head.contains("access-control"), "{head}");
        assert_eq!(server_state(&lb).await, "ready", "{headers:?}");
        head
    };
    let head = refused(&[&host, JSON], 401).await;
    assert!(head.contains("www-authenticate: bearer"), "{head}");
    refused(
        &[&host, JSON, "authorization: Bearer another-token-for-tests"],
        401,
    )
    .await;
    // Requests that a browser would send on behalf of another site's page.
    for more in [
        "origin: http://evil.com",
        "origin: null",
        "sec-fetch-site: cross-site",
    ] {
        refused(&[&host, JSON, &bearer, more], 403).await;
    }
    for kind in [
        "content-type: text/plain",
        "content-type: application/x-www-form-urlencoded",
        "x: y",
    ] {
        refused(&[&host, &bearer, kind], 415).await;
    }
    refused(&["host: evil.com", JSON, &bearer], 421).await;
    // The answer to a CORS preflight does not allow the actual request.
    let preflight = format!(
        "OPTIONS /api/v1/{DRAIN} HTTP/1.1\r\n{host}\r\norigin: http://evil.com\r\naccess-control-request-method: POST\r\nconnection: close\r\n\r\n"
    );
    let (status, head, _) = send(admin, &preflight).await;
    assert_eq!(status, 403);
    assert!(!head.contains("access-control"), "{head}");

    // Requests from the dashboard's own origin are allowed.
    let own = format!("origin: http://{admin}");
    let headers = [&*host, JSON, &bearer, &own, "sec-fetch-site: same-origin"];
    let (status, _, body) = send(admin, &post(DRAIN, &headers, TO_DRAIN)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(server_state(&lb).await, "drain");
    lb.wait_log(
        |event| {
            let expected = [
                ("message", "admin command"),
                ("command", "set_server_state"),
                ("upstream", "web"),
                ("server", "web1"),
                ("from", "ready"),
                ("to", "drain"),
            ];
            let fields = &event["fields"];
            expected.iter().all(|&(name, value)| fields[name] == value)
                && fields["source"]
                    .as_str()
                    .is_some_and(|source| source.starts_with("127.0.0.1:"))
                && fields.get("uid").is_none()
        },
        DEADLINE,
    )
    .await;
    assert!(!lb.stderr().contains(TOKEN));

    // After a reload, the new token is required and the old one is refused.
    std::fs::write(lb.dir().join("token"), "another-token-altogether").unwrap();
    ctl(&lb, &["reload"]).await.ok();
    let ready = r#"{"state":"ready"}"#;
    let old = send(admin, &post(DRAIN, &[&host, JSON, &bearer], ready)).await;
    assert_eq!(old.0, 401);
    let new = "authorization: Bearer another-token-altogether";
    let done = send(admin, &post(DRAIN, &[&host, JSON, new], ready)).await;
    assert_eq!(done.0, 200);
    std::fs::write(lb.dir().join("token"), "short").unwrap();
    let rejected = ctl(&lb, &["reload"]).await;
    assert_eq!(rejected.code, 1);
    assert!(
        rejected.stderr.contains("shorter than 16 characters"),
        "{rejected:?}"
    );
    lb.quiet().await;
}

#[tokio::test]
async fn foreign_host_name_sees_metrics_only() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web])
        .admin("hosts = [\"lb.internal\"]")
        .start()
        .await;
    let get = async |host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        send(lb.admin(), &request).await
    };
    for path in ["/api/v1/status", "/api/v1/connections", "/", "/nothing"] {
        let (status, head, body) = get("evil.com", path).await;
        assert_eq!(status, 421, "{path}");
        assert!(error(&body).contains("`hosts`"), "{body}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(
            get("leastconn.monitoring.svc:9901", path).await.0,
            200,
            "{path}"
        );
    }
    for host in ["lb.internal:80", "localhost", "127.0.0.1", "[::1]:9"] {
        let (status, head, _) = get(host, "/api/v1/status").await;
        assert_eq!(status, 200, "{host}");
        assert!(
            head.contains("content-security-policy: default-src 'none'"),
            "{head}"
        );
    }
    lb.quiet().await;
}

#[tokio::test]
async fn malformed_requests_change_nothing() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).admin("token = \"token\"");
    std::fs::write(site.dir.path().join("token"), TOKEN).unwrap();
    let lb = site.start().await;
    let (host, bearer) = (
        format!("host: {}", lb.admin()),
        format!("authorization: Bearer {TOKEN}"),
    );
    let large = format!(r#"{{"state":"{}"}}"#, "x".repeat(70_000));
    for (path, body, expected) in [
        (DRAIN, "", 400),
        (DRAIN, "{", 400),
        (DRAIN, "[]", 400),
        (DRAIN, r#"{"state":"gone"}"#, 400),
        (DRAIN, r#"{"state":"drain","color":"red"}"#, 400),
        (DRAIN, r#"{"state":"drain","grace":"1s"}"#, 400),
        (DRAIN, r#"{"state":"maint","grace":"1 parsec"}"#, 400),
        (DRAIN, &*large, 413),
        ("servers/web/none/state", TO_DRAIN, 404),
        ("servers/web/%ff/state", TO_DRAIN, 400),
        ("servers/web/%1b%5b31m/state", TO_DRAIN, 404),
        ("connections/kill", "{}", 400),
        ("connections/kill", r#"{"connection":-1}"#, 400),
        ("connections/kill", r#"{"server":"web"}"#, 400),
        ("log-level", r#"{"level":"loud"}"#, 400),
        ("reload", r#"{"file":"/etc/passwd"}"#, 400),
        ("status", "{}", 405),
        ("nothing", "{}", 404),
    ] {
        let request = post(path, &[&host, JSON, &bearer], body);
        let (status, _, answer) = send(lb.admin(), &request).await;
        assert_eq!(status, expected, "{path} {:.80}: {answer}", body);
        assert!(!error(&answer).chars().any(char::is_control), "{answer:?}");
    }
    assert_eq!(server_state(&lb).await, "ready");
    assert_eq!(lb.reloads().await, [0.0, 0.0]);
    lb.quiet().await;
}

#[tokio::test]
async fn slow_admin_clients_do_not_block_the_socket() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web]).admin(SOCKET).start().await;
    let mut slow = Vec::new();
    // 140 connections exceed the limit of the admin address, so further connections wait.
    for _ in 0..140 {
        let mut stream = tcp(lb.admin()).await;
        stream
            .write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: ")
            .await
            .unwrap();
        slow.push(stream);
    }
    // The admin socket answers before the first slow connection times out.
    let by_socket = within(Duration::from_secs(9), "ctl", ctl(&lb, &["status"]));
    by_socket.await.ok();
    // The admin address serves the slow connections in batches. Each batch has ten seconds to
    // send its request heads.
    let timeout = Duration::from_secs(60);
    let (status, _) = within(timeout, "an answer", async {
        eventually(timeout, || async {
            lb.try_http_get("/readyz")
                .await
                .map_err(|error| error.to_string())
        })
        .await
        .unwrap()
    })
    .await;
    assert_eq!(status, 200);
    let first = within(timeout, "the end", answer(&mut slow[0])).await;
    assert!([0, 408].contains(&first.0), "{first:?}");
    drop(slow);
    lb.quiet().await;
}
