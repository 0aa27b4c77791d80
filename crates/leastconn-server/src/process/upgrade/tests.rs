use std::{net::TcpListener, os::fd::OwnedFd};

use super::*;

/// Starts a shell script as the successor.
async fn shell(script: &str, limit: Duration) -> Result<ReadySuccessor, UpgradeError> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = vec![("main".to_owned(), OwnedFd::from(socket))];
    let started = begin(command, "/bin/sh".into(), sockets, None, limit).await?;
    Ok(started.0)
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
async fn large_overrides_are_sent_before_the_successor_is_ready() {
    for (count, is_in_environment) in [(10, true), (6_000, false)] {
        let overrides = with_blocks(count);
        let mut command = Command::new("/bin/sh");
        // The socket buffer is smaller than this message.
        let script = r#"test -z "$LEASTCONN_SENT_OVERRIDES" || read -r sent <&3
            echo '{"ready":{}}' >&3
            read -r go <&3; printf %s "$sent$go" >"$0""#;
        let file = tempfile::NamedTempFile::new().unwrap();
        command.args(["-c", script]).arg(file.path());
        let too_large = pass_overrides(&mut command, &overrides);
        assert_eq!(too_large, !is_in_environment, "{count}");
        let variable = command.get_envs().find(|(name, _)| *name == OVERRIDES);
        assert_eq!(variable.unwrap().1.is_some(), is_in_environment, "{count}");

        let first = too_large.then(|| PredecessorMessage::Overrides(overrides.clone()));
        let path = "/bin/sh".into();
        let (successor, has_sent) = begin(command, path, Vec::new(), first, LONG).await.unwrap();
        assert_eq!(has_sent, too_large, "{count}");
        let successor = ReadySuccessor {
            overrides: overrides.clone(),
            ..successor
        };
        let successor = successor.go(false, overrides.clone()).await;
        let wait = move || waitid(WaitId::Pid(successor.pid().unwrap()), WaitIdOptions::EXITED);
        tokio::task::spawn_blocking(wait).await.unwrap().unwrap();

        let received = std::fs::read_to_string(file.path()).unwrap();
        let sent = serde_json::to_string(&PredecessorMessage::Overrides(overrides)).unwrap();
        let sent = if too_large { &*sent } else { "" };
        let expected = format!(r#"{sent}{{"go":{{"reload":false}}}}"#);
        assert!(received == expected, "{count}: {} bytes", received.len());
    }
}

#[tokio::test]
async fn first_message_may_be_larger_than_the_socket_buffer() {
    let overrides = with_blocks(10_000);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut ours = Channel::new(ours).unwrap();
    let receive = move || channel::receive_first::<PredecessorMessage>(&theirs, LONG);
    let received = tokio::task::spawn_blocking(receive);
    let message = PredecessorMessage::Overrides(overrides);
    ours.send(&message).await.unwrap();
    assert!(received.await.unwrap().unwrap() == message);
}

#[tokio::test]
async fn overrides_that_changed_are_sent_with_go() {
    for (passed, sent) in [(10, false), (11, true)] {
        let overrides = with_blocks(10);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let successor = ReadySuccessor {
            child: Started(None),
            channel: Channel::new(ours).unwrap(),
            overrides: with_blocks(passed),
            unused: UnusedSockets::default(),
        };
        let mut theirs = Channel::new(theirs).unwrap();
        let (_successor, go) = tokio::join!(successor.go(false, overrides.clone()), theirs.next());
        let expected = PredecessorMessage::Go {
            reload: false,
            overrides: sent.then_some(overrides),
        };
        assert_eq!(go, Some(expected), "{passed}");
    }
}
