use std::{net::TcpListener, os::fd::OwnedFd};

use super::*;

/// Starts a shell script as the successor.
async fn shell(script: &str, limit: Duration) -> Result<ReadySuccessor, UpgradeError> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = vec![("main".to_owned(), OwnedFd::from(socket))];
    begin(command, "/bin/sh".into(), sockets, limit).await
}

const LONG: Duration = leastconn_testkit::DEADLINE;

#[tokio::test]
async fn successor_becomes_ready() {
    let script = r#"test "$LISTEN_FDS $LISTEN_FDNAMES" = "2 main:@old" || exit 3
        test "$LEASTCONN_UPGRADE" = $PPID || exit 4
        test -z "$LISTEN_PID$WATCHDOG_PID" || exit 5
        echo '{"ready":{"unused":["127.0.0.1:1"]}}' >&4
        read -r go <&4 && test "$go" = '{"go":{"reload":true}}'"#;
    let successor = shell(script, LONG).await.unwrap();
    assert_eq!(successor.unused.addresses, ["127.0.0.1:1".parse().unwrap()]);
    let pid = successor.pid();
    let successor = successor.go(true, OverrideHandover::default()).await;
    assert_eq!(
        successor
            .pid()
            .unwrap()
            .as_raw_nonzero()
            .get()
            .unsigned_abs(),
        pid
    );
    let wait = move || waitid(WaitId::Pid(successor.pid().unwrap()), WaitIdOptions::EXITED);
    let ended = tokio::task::spawn_blocking(wait).await.unwrap();
    assert_eq!(ended.unwrap().unwrap().exit_status(), Some(0));
}

#[tokio::test]
async fn failed_successor_reports_reasons() {
    let script = r#"echo '{"failed":{"reasons":["no","never"]}}' >&4; read -r go <&4"#;
    let error = shell(script, LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "the new process cannot start: no; never");
}

#[tokio::test]
async fn successor_that_exits_has_failed() {
    let error = shell("exit 7", LONG).await.unwrap_err();
    assert!(
        matches!(error, UpgradeError::Ended(status) if status.code() == Some(7)),
        "{error}"
    );
}

#[tokio::test]
async fn silent_successor_is_killed() {
    let error = shell("exec sleep 1000", Duration::from_millis(100)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, UpgradeError::TimedOut(_)), "{error}");
}

#[tokio::test]
async fn failed_successor_is_noticed_and_not_reaped() {
    let successor = shell(r#"echo '{"ready":{}}' >&4; read -r go <&4; exit 1"#, LONG).await;
    let successor = successor
        .unwrap()
        .go(false, OverrideHandover::default())
        .await;
    let pid = successor.pid().unwrap();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let wait = move || waitid(WaitId::Pid(pid), options);
    tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
    assert!(successor.has_failed());
    let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    assert_eq!(ended.unwrap().unwrap().exit_status(), Some(1));
    assert!(!successor.has_failed(), "already reaped");
}

/// Overrides with this many blocks.
fn with_blocks(count: usize) -> OverrideHandover {
    let block = |n| serde_json::json!({ "identity": format!("cn:client{n}.lb.com"), "since": "" });
    let blocks: Vec<_> = (0..count).map(block).collect();
    serde_json::from_value(serde_json::json!({ "blocks": blocks })).unwrap()
}

#[tokio::test]
async fn overrides_missing_in_the_environment_are_sent_with_go() {
    for (count, is_in_environment) in [(10, true), (3000, false)] {
        let overrides = with_blocks(count);
        let mut command = Command::new("/bin/sh");
        let passed = pass_overrides(&mut command, overrides.clone());
        let variable = command.get_envs().find(|(name, _)| *name == OVERRIDES);
        assert_eq!(variable.unwrap().1.is_some(), is_in_environment, "{count}");

        let (ours, theirs) = UnixStream::pair().unwrap();
        let successor = ReadySuccessor {
            child: Started(None),
            channel: Channel::new(ours).unwrap(),
            overrides: passed,
            unused: UnusedSockets::default(),
        };
        let mut theirs = Channel::new(theirs).unwrap();
        let (_successor, go) = tokio::join!(successor.go(false, overrides.clone()), theirs.next());
        let sent = (!is_in_environment).then_some(overrides);
        let expected = PredecessorMessage::Go {
            reload: false,
            overrides: sent,
        };
        assert_eq!(go, Some(expected), "{count}");
    }
}
