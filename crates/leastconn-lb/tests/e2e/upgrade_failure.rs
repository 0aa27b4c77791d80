//! If a new process fails to start, nothing changes: the old process keeps serving, logs
//! the reason, and can be upgraded later.

use std::path::Path;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Signal, Upstream};
use tokio::io::AsyncWriteExt;

use crate::ctl::{SOCKET, ctl};
use crate::support::upgrading::{
    message, own_process_group, replace_symlink, signal, start, successor, upgrade,
    wait_process_exit, write_script,
};
use crate::support::{BIN, CLIENT1, Running, Site, talk};

/// Waits until an upgrade has failed with this reason.
async fn wait_failed(lb: &Running, reason: &str) {
    lb.wait_log(
        |event| {
            let error = event["fields"]["error"].as_str().unwrap_or_default();
            message(event).starts_with("upgrade failed") && error.contains(reason)
        },
        DEADLINE,
    )
    .await;
}

#[tokio::test]
async fn invalid_configuration_fails_the_upgrade() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::usual(&[&web]).admin(SOCKET)).await;
    let client = lb.client(CLIENT1);
    let mut open = client.connect(lb.main()).await.unwrap();
    read_line(&mut open).await.unwrap();
    let wrong = [
        // The configuration is first invalid, then valid but with an unavailable address.
        (lb.config() + "\nnonsense = 1\n", "nonsense"),
        (
            lb.config().replacen("127.0.0.1:0", "192.0.2.1:1", 1),
            "192.0.2.1:1",
        ),
    ];
    for (config, reason) in wrong {
        lb.write_config(&config);
        lb.signal(Signal::USR2);
        wait_failed(&lb, reason).await;
        assert_eq!(roundtrip(&mut open, b"x").await.unwrap(), b"x");
        talk(client.connect(lb.main()).await.unwrap())
            .await
            .unwrap();
        assert_eq!(lb.http_get("/readyz").await.0, 200);
        let (_, status) = lb.http_get("/api/v1/status").await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let recorded = status["failed_upgrade"]["reason"].as_str().unwrap();
        assert!(recorded.contains(reason), "{recorded}");
        let shown = ctl(&lb, &["--socket", "lb.sock", "status"]).await.ok();
        assert!(shown.contains("last upgrade   FAILED"), "{shown}");
        assert!(shown.contains(reason), "{shown}");
    }
    lb.write_config(&lb.config());
    open.shutdown().await.unwrap();
    assert!(read_to_close(&mut open).await.unwrap().is_empty());
    lb.quiet().await;
    upgrade(&lb, lb.pid()).await;
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
}

#[tokio::test]
async fn broken_program_fails_the_upgrade() {
    let web = Upstream::named("web1").await;
    // The program is a script, and the sandbox does not allow executing its shell.
    let site = Site::usual(&[&web]).process("sandbox = \"off\"");
    let programs = site.dir.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    // Start the program through a symlink, which the test later points to other programs.
    let name = programs.join("leastconn-lb");
    replace_symlink(&name, Path::new(BIN));
    let broken = programs.join("broken");
    write_script(&broken, "exit 3");
    let crashes = programs.join("crashes");
    write_script(&crashes, "kill -SEGV $$");
    let missing = programs.join("missing");

    let lb = site.start_as(&name, own_process_group).await;
    let client = lb.client(CLIENT1);
    for (program, reason) in [(&broken, "exit status: 3"), (&crashes, "signal: 11")] {
        replace_symlink(&name, program);
        lb.signal(Signal::USR2);
        wait_failed(&lb, reason).await;
        talk(client.connect(lb.main()).await.unwrap())
            .await
            .unwrap();
    }
    // The link is broken, but the running executable still exists.
    replace_symlink(&name, &missing);
    let next = upgrade(&lb, lb.pid()).await;
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    replace_symlink(&name, Path::new(BIN));
    let last = upgrade(&lb, next).await;
    wait_process_exit(next).await;
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    signal(last, Signal::TERM);
    wait_process_exit(last).await;
}

#[tokio::test]
async fn script_fails_the_upgrade_inside_the_sandbox() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).process("sandbox = \"on\"");
    let programs = site.dir.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let name = programs.join("leastconn-lb");
    std::fs::copy(BIN, &name).unwrap();
    let lb = site.start_as(&name, own_process_group).await;
    if !lb.stderr().contains("confined by Landlock") {
        eprintln!("SKIPPED: this kernel has no Landlock");
        return;
    }
    let wrapper = programs.join("wrapper");
    write_script(&wrapper, &format!("exec {BIN} \"$@\""));
    std::fs::rename(&wrapper, &name).unwrap();
    lb.signal(Signal::USR2);
    wait_failed(&lb, "it is a script for /bin/sh").await;
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn shutdown_aborts_the_upgrade() {
    let web = Upstream::named("web1").await;
    // The program is a script, and the sandbox does not allow executing its shell.
    let site = Site::usual(&[&web]).process("sandbox = \"off\"");
    let name = site.dir.path().join("leastconn-lb");
    replace_symlink(&name, Path::new(BIN));
    let silent = site.dir.path().join("silent");
    write_script(
        &silent,
        "echo $$ > started.new; mv started.new started; exec sleep 1000",
    );
    let lb = site.start_as(&name, own_process_group).await;
    replace_symlink(&name, &silent);
    lb.signal(Signal::USR2);
    let started = lb.dir().join("started");
    let pid = leastconn_testkit::eventually(DEADLINE, || async {
        let text = std::fs::read_to_string(&started).map_err(|e| e.to_string())?;
        text.trim().parse::<u32>().map_err(|e| e.to_string())
    })
    .await
    .unwrap();
    lb.signal(Signal::TERM);
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    wait_process_exit(pid).await;
}

#[tokio::test]
async fn crash_of_the_successor_ends_the_old_process() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::usual(&[&web])).await;
    let client = lb.client(CLIENT1);
    let mut open = client.connect(lb.main()).await.unwrap();
    read_line(&mut open).await.unwrap();
    signal(lb.pid(), Signal::USR2);
    let next = successor(&lb, lb.pid()).await;
    assert_eq!(roundtrip(&mut open, b"x").await.unwrap(), b"x");
    signal(next, Signal::KILL);
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(1));
}
