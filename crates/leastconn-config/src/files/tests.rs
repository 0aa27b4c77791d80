use std::{os::unix::net::UnixListener, sync::mpsc::sync_channel};

use leastconn_testkit::{DEADLINE, within};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

fn refused(path: &Path) -> String {
    read(path, 100).err().unwrap().to_string()
}

#[test]
fn only_regular_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    std::os::unix::fs::symlink(at("fifo"), at("link")).unwrap();
    std::fs::write(at("file"), "contents").unwrap();
    assert!(refused(&at("fifo")).contains("a pipe (FIFO)"));
    assert!(refused(&at("link")).contains("a pipe (FIFO)"));
    assert!(refused(&at("socket")).contains("a socket"));
    assert!(refused(dir.path()).contains("a directory"));
    assert!(refused(Path::new("/dev/zero")).contains("a device"));
    assert!(refused(&at("none")).contains("No such file"));
    assert_eq!(read(&at("file"), 100).unwrap().bytes, b"contents");
    assert_eq!(read(&at("file"), 8).unwrap().bytes, b"contents");
    assert!(read(&at("file"), 7).is_err());
}

/// The operation waits for a channel, like an operation on a network mount whose server does
/// not answer.
#[tokio::test]
async fn blocked_operation_is_reported_and_abandoned() {
    let lane = Lane::default();
    let (go_on, wait) = sync_channel::<()>(1);
    let path = PathBuf::from("/mnt/dead/ca.crl");
    let dead = path.clone();
    let limit = Duration::from_millis(100);
    let work = move || record(&dead, || wait.recv());
    let given_up = lane.run_within(limit, work);
    let given_up = within(DEADLINE, "an error", given_up).await.unwrap_err();
    assert!(given_up.to_string().starts_with("/mnt/dead/ca.crl: "));
    // The lane starts no further work while it is blocked. Other lanes are not affected.
    let again = lane.run_within(limit, || 1).await;
    assert!(matches!(again, Err(NoResult::Blocked(_))));
    assert_eq!(Lane::default().run(|| 2).await.unwrap(), 2);
    let shown = || async {
        let blocked = blocked().filter(|blocked| blocked.path == path);
        blocked.ok_or_else(|| "not reported".to_owned())
    };
    let shown = leastconn_testkit::eventually(DEADLINE, shown).await;
    assert!(shown.unwrap().elapsed() >= SLOW);
    go_on.send(()).unwrap();
    let recovered = || async { lane.run(|| 3).await.map_err(|error| error.to_string()) };
    let recovered = leastconn_testkit::eventually(DEADLINE, recovered).await;
    assert_eq!(recovered.unwrap(), 3);
}

#[tokio::test]
async fn work_waits_for_the_previous_job() {
    let lane = Lane::default();
    let (go_on, wait) = sync_channel::<()>(0);
    let (started, has_started) = sync_channel::<()>(0);
    let slow = lane.run(move || {
        started.send(()).unwrap();
        wait.recv().unwrap();
    });
    let next = tokio::task::spawn_blocking(move || has_started.recv().unwrap());
    tokio::select! {
        _ = slow => panic!("the job waits for the channel"),
        started = next => started.unwrap(),
    }
    // The future was dropped, but its job still runs.
    let early = tokio::time::timeout(Duration::from_millis(50), lane.run(|| 1)).await;
    assert!(early.is_err());
    go_on.send(()).unwrap();
    let next = within(DEADLINE, "the next job", lane.run(|| 2)).await;
    assert_eq!(next.unwrap(), 2);
}

#[tokio::test]
async fn block_of_a_cancelled_job_is_reported() {
    let lane = Lane::default();
    let (_go_on, wait) = sync_channel::<()>(0);
    let work = move || record(Path::new("/mnt/dead/ca.key"), || wait.recv());
    let limit = Duration::from_millis(100);
    let first = tokio::time::timeout(limit / 2, lane.run_within(limit, work)).await;
    assert!(first.is_err());
    let second = within(DEADLINE, "an error", lane.run_within(limit, || ())).await;
    assert!(matches!(second, Err(NoResult::Blocked(_))));
}

#[tokio::test]
async fn progress_counts_as_not_blocked() {
    let (step, steps) = sync_channel::<()>(1);
    let lane = Lane::default();
    let work = move || {
        let recorded = Recorded::new(Path::new("large"));
        while steps.recv().is_ok() {
            recorded.advance();
        }
    };
    let feed = async move {
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            step.send(()).unwrap();
        }
        drop(step);
    };
    let (done, ()) = tokio::join!(lane.run_within(Duration::from_millis(600), work), feed);
    done.unwrap();
}
