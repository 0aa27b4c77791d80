//! Opening or reading a FIFO would block. The balancer refuses a FIFO with an error, and
//! continues to work.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use leastconn_testkit::{DEADLINE, Signal, Upstream, within};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{BIN, CLIENT1, Running, Site, talk};

const TOKEN: &str = "token = \"token\"";

/// Replaces a file by a FIFO without a writer, and returns the previous content.
fn replace_by_fifo(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let fifo = path.with_extension("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::rename(&fifo, path).unwrap();
    bytes
}

async fn is_logged(lb: &Running, file: &str) {
    let matches = |event: &serde_json::Value| {
        let message = event["fields"]["message"].as_str().unwrap_or_default();
        message.contains(file) && message.contains("it is a pipe (FIFO), not a regular file")
    };
    lb.wait_log(matches, DEADLINE).await;
}

fn check(lb: &Running) -> (Option<i32>, String) {
    let mut command = Command::new(BIN);
    let config = lb.dir().join("leastconn.toml");
    let output = command.arg("check").arg("--config").arg(config).output();
    let output = output.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

#[tokio::test]
async fn fifo_is_refused_and_later_reloads_work() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).process("watch = \"off\"").admin(TOKEN);
    fs::write(site.dir.path().join("token"), "a-token-for-tests-only").unwrap();
    let lb = site.start().await;
    let files = [
        "leastconn.toml",
        "token",
        "server.crt",
        "server.key",
        "ca.crt",
        "ca.crl",
    ];
    for file in files {
        let path = lb.dir().join(file);
        let bytes = replace_by_fifo(&path);
        let outcome = lb.reloading(|| lb.signal(Signal::HUP)).await;
        assert_eq!(outcome, "rejected", "{file}");
        is_logged(&lb, file).await;
        let (code, text) = check(&lb);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("it is a pipe (FIFO)"), "{text}");
        fs::write(path.with_extension("whole"), bytes).unwrap();
        fs::rename(path.with_extension("whole"), &path).unwrap();
        let outcome = lb.reloading(|| lb.signal(Signal::HUP)).await;
        assert_eq!(outcome, "applied", "{file}");
    }
    let client = lb.client(CLIENT1);
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}

/// The file watcher reports the FIFO, and continues to watch the other files.
#[tokio::test]
async fn watched_fifo_does_not_delay_revocation() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).listener(
        "other",
        &[
            "upstream = \"web\"",
            "tls = { cert = \"other.crt\", key = \"server.key\", client_ca = \"ca.crt\" }",
        ],
    );
    fs::copy(
        lb.dir.path().join("server.crt"),
        lb.dir.path().join("other.crt"),
    )
    .unwrap();
    let lb = lb.start().await;
    let outcome = lb
        .reloading(|| {
            replace_by_fifo(&lb.dir().join("other.crt"));
        })
        .await;
    assert_eq!(outcome, "rejected");
    is_logged(&lb, "other.crt").await;
    let cert = lb.ca().leaf(CLIENT1).build();
    let client = lb.client_with(&cert);
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    let before = lb.reloads().await[0];
    lb.ca().write_crl(lb.dir(), &[&cert]);
    let applied = leastconn_testkit::eventually(DEADLINE, || async {
        let [applied, _] = lb.reloads().await;
        (applied > before)
            .then_some(())
            .ok_or_else(|| "not applied".to_owned())
    });
    applied.await.unwrap();
    assert!(crate::support::refused(&client, lb.main()).await.is_some());
    lb.expect_record(1, "revoked_certificate").await;
    lb.quiet().await;
}

#[tokio::test]
async fn start_with_a_fifo_fails_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leastconn.toml");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut command = tokio::process::Command::new(BIN);
    command.arg("run").arg("--config").arg(&path);
    let output = command.kill_on_drop(true).output();
    let output = within(DEADLINE, "the exit", output).await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("it is a pipe (FIFO), not a regular file"),
        "{text}"
    );
}

#[tokio::test]
async fn explain_reads_a_certificate_from_a_pipe() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let cert = lb.ca().leaf(CLIENT1).build();
    let mut explain = Command::new(BIN)
        .args(["explain", "--cert", "/dev/stdin", "--config"])
        .arg(lb.dir().join("leastconn.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = explain.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, cert.cert_pem.as_bytes()).unwrap();
    drop(stdin);
    let output = explain.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    lb.quiet().await;
}
