//! The file of the admin socket: permissions, creation and removal.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use leastconn_testkit::{Balancer, DEADLINE, Signal, Upstream};

use crate::ctl::{SOCKET, ctl, program};
use crate::support::{BIN, Site};

#[tokio::test]
async fn socket_is_private_and_removed_at_exit() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).admin(SOCKET);
    let path = site.dir.path().join("lb.sock");
    // Start with a stale socket file and with umask 0: the balancer must replace the file and
    // restrict the permissions itself.
    drop(UnixListener::bind(&path).unwrap());
    let lb = site
        .start_with(|command| {
            let program = command.get_program().to_owned();
            let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            let directory = command.get_current_dir().map(ToOwned::to_owned);
            *command = std::process::Command::new("sh");
            command
                .args(["-c", "umask 0; exec \"$0\" \"$@\""])
                .arg(program)
                .args(args);
            if let Some(directory) = directory {
                command.current_dir(directory);
            }
        })
        .await;
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    ctl(&lb, &["status"]).await.ok();
    lb.signal(Signal::TERM);
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    assert!(!path.exists());
    let stopped = ctl(&lb, &["status"]).await;
    assert_eq!(stopped.code, 1);
    assert!(
        stopped.stderr.contains("the balancer is not running"),
        "{stopped:?}"
    );
}

#[tokio::test]
async fn socket_in_use_is_not_replaced() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web]).admin(SOCKET).start().await;
    let other = tempfile::tempdir().unwrap();
    let path = lb.dir().join("lb.sock");
    let same = lb.config().replace("lb.sock", path.to_str().unwrap());
    let refused = Balancer::start(BIN, &same, &other).await.unwrap_err();
    assert_eq!(refused.status.unwrap().code(), Some(1));
    assert!(
        refused.stderr.contains("another process listens there"),
        "{refused}"
    );
    ctl(&lb, &["status"]).await.ok();

    let precious = other.path().join("precious");
    std::fs::write(&precious, "data").unwrap();
    let overwriting = lb.config().replace("lb.sock", precious.to_str().unwrap());
    let refused = Balancer::start(BIN, &overwriting, &other)
        .await
        .unwrap_err();
    assert!(refused.stderr.contains("is not a socket"), "{refused}");
    // A reload that would replace the file is rejected as a whole.
    lb.write_config(&overwriting);
    let rejected = ctl(&lb, &["--socket", "lb.sock", "reload"]).await;
    assert_eq!(rejected.code, 1);
    assert!(rejected.stderr.contains("is not a socket"), "{rejected:?}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "data");
    ctl(&lb, &["--socket", "lb.sock", "status"]).await.ok();
    lb.quiet().await;
}

#[tokio::test]
async fn one_of_two_simultaneous_starts_gets_the_socket() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]);
    let shared = tempfile::tempdir().unwrap();
    let path = shared.path().join("lb.sock");
    let line = format!("socket = \"{}\"", path.display());
    let config = site.admin(&line).config();
    for _ in 0..5 {
        // Leave a stale socket file, like a killed process.
        drop(UnixListener::bind(&path).unwrap());
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let started = tokio::join!(
            Balancer::start(BIN, &config, &dirs[0]),
            Balancer::start(BIN, &config, &dirs[1]),
        );
        let (lb, refused) = match started {
            (Ok(lb), Err(refused)) | (Err(refused), Ok(lb)) => (lb, refused),
            other => panic!("{other:?}"),
        };
        assert!(
            refused.stderr.contains("another process listens there"),
            "{refused}"
        );
        let socket = ["ctl", "--json", "--socket", path.to_str().unwrap()];
        let status = program(shared.path(), &[&socket[..], &["status"]].concat()).await;
        let status: serde_json::Value = serde_json::from_str(&status.ok()).unwrap();
        assert_eq!(status["pid"], lb.pid());
        lb.signal(Signal::TERM);
        assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
        assert_eq!(
            std::fs::read_dir(&shared).unwrap().count(),
            0,
            "files were left behind"
        );
    }
}

#[tokio::test]
async fn reload_moves_and_recreates_the_socket() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web]).admin(SOCKET).start().await;
    let old = lb.dir().join("lb.sock");
    let moved = lb.config().replace("lb.sock", "new.sock");
    lb.write_config(&moved);
    // The answer arrives over the socket although the reload closes that socket.
    assert_eq!(
        ctl(&lb, &["--socket", "lb.sock", "reload"]).await.ok(),
        "applied\n"
    );
    assert!(!old.exists());
    ctl(&lb, &["status"]).await.ok();

    std::fs::remove_file(lb.dir().join("new.sock")).unwrap();
    assert_eq!(ctl(&lb, &["status"]).await.code, 1);
    assert_eq!(lb.reload(&moved).await, "applied");
    ctl(&lb, &["status"]).await.ok();

    let without = moved.replace("socket = \"new.sock\"\n", "");
    assert_eq!(lb.reload(&without).await, "applied");
    assert!(!lb.dir().join("new.sock").exists());
    lb.quiet().await;
}

#[tokio::test]
async fn unusable_socket_path_fails_the_check() {
    let web = Upstream::named("web1").await;
    let dir = tempfile::tempdir().unwrap();
    let site = Site::plain(&[&web]).admin(&format!("socket = \"{}\"", "x".repeat(108)));
    std::fs::write(dir.path().join("leastconn.toml"), site.config()).unwrap();
    let check = program(dir.path(), &["check"]).await;
    assert_eq!(check.code, 2);
    assert!(check.stderr.contains("the maximum is 107"), "{check:?}");

    let site = Site::plain(&[&web]).admin("socket = \"none/lb.sock\"");
    let refused = Balancer::start(BIN, &site.config(), &dir)
        .await
        .unwrap_err();
    assert_eq!(refused.status.unwrap().code(), Some(1));
    assert!(
        refused.stderr.contains("there is no directory"),
        "{refused}"
    );
}
