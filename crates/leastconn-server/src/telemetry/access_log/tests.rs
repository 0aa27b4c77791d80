use std::{
    fs,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;

fn at(path: &Path) -> Access {
    Access::File(path.to_owned())
}

fn line(n: usize) -> Vec<u8> {
    format!("{{\"line\":{n}}}\n").into_bytes()
}

fn fifo(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("log");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    path
}

/// Opens a FIFO for reading without waiting for a writer.
fn reader(path: &Path) -> fs::File {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(flags).open(path).unwrap()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = leastconn::net::now();
    while !done() {
        let waited = leastconn::net::now() - start;
        assert!(waited < leastconn_testkit::DEADLINE, "{what}");
        thread::yield_now();
    }
}

fn read(from: &mut fs::File) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let read = from.read(&mut bytes).unwrap_or(0);
    bytes.truncate(read);
    bytes
}

#[test]
fn full_device_loses_each_line_once() {
    let (log, flusher) = AccessLog::open(&at(Path::new("/dev/full"))).unwrap();
    for n in 0..1000 {
        log.write(&line(n));
    }
    drop(flusher);
    assert_eq!(log.lost(), 1000);
}

#[test]
fn fifo_readers_may_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir);
    let (log, _flusher) = AccessLog::open(&at(&path)).unwrap();
    log.write(&line(1));
    wait("no reader", || log.lost() == 1);
    for round in 0..3 {
        let lost = log.lost();
        let mut reader = reader(&path);
        log.write(&line(round));
        let mut got = Vec::new();
        wait("a reader", || {
            got.extend(read(&mut reader));
            got == line(round)
        });
        assert_eq!(log.lost(), lost);
        drop(reader);
        // The write must fail with an error and not raise SIGPIPE, which would end the process.
        log.write(&line(round));
        wait("the reader has gone", || log.lost() == lost + 1);
    }
    log.reopen();
    log.write(&line(9));
    wait("no reader", || log.lost() == 5);
}

#[test]
fn destination_changes_despite_a_stalled_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir);
    let mut reader = reader(&path);
    let (log, flusher) = AccessLog::start(Sink::open(&at(&path)).unwrap(), 100_000).unwrap();
    let long = [b"x".repeat(1000), b"\n".to_vec()].concat();
    let start = leastconn::net::now();
    let mut sent = 0;
    // Lines are lost once the pipe, the buffer and the queue are full.
    while log.lost() == 0 {
        log.write(&long);
        sent += 1;
        assert!(sent < 10_000);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    let other = dir.path().join("other");
    log.switch(log.prepare(&at(&other)).unwrap());
    wait("the other destination", || {
        other.exists() && {
            log.write(&line(7));
            sent += 1;
            fs::read_to_string(&other)
                .unwrap()
                .ends_with("{\"line\":7}\n")
        }
    });
    drop(flusher);
    // Each line is in the FIFO, in the file or counted as lost.
    let mut piped = Vec::new();
    loop {
        let more = read(&mut reader);
        if more.is_empty() {
            break;
        }
        piped.extend(more);
    }
    let count = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count();
    let written = count(&piped) + count(&fs::read(&other).unwrap());
    assert_eq!(written + usize::try_from(log.lost()).unwrap(), sent);
}

/// The destination changes while lines wait for a stalled reader.
#[test]
fn previous_destination_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir);
    let _reader = reader(&path);
    let shared = Arc::new(Shared::new(QUEUE));
    let mut writer = Writer::new(Sink::open(&at(&path)).unwrap(), Arc::clone(&shared));
    let long = [b"x".repeat(1000), b"\n".to_vec()].concat();
    // Fills the pipe.
    while writer.sink.write(&long, || true) == 0 {}
    let (done, written) = sync_channel(1);
    // Two writes: the first one waits for the reader until the destination changes.
    let lines = [long.repeat(70), line(7)].concat();
    thread::spawn(move || {
        writer.write(&lines);
        done.send(()).unwrap();
    });
    assert!(
        written.recv_timeout(Duration::from_millis(50)).is_err(),
        "the reader is stalled"
    );
    let other = dir.path().join("other");
    *shared.next.lock() = Some(Sink::open(&at(&other)).unwrap());
    shared.has_next.store(true, Ordering::Release);
    written.recv_timeout(Duration::from_secs(10)).unwrap();
    let moved = fs::read(&other).unwrap();
    assert!(moved.ends_with(&line(7)));
    let moved = moved.iter().filter(|&&byte| byte == b'\n').count() as u64;
    assert_eq!(moved + shared.lost.load(Ordering::Relaxed), 71);
}

#[test]
fn lines_in_quick_succession_share_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir);
    let mut reader = reader(&path);
    let (log, _flusher) = AccessLog::open(&at(&path)).unwrap();
    let mut got = Vec::new();
    for n in 0..1000 {
        log.write(&line(n));
    }
    let mut reads = 0;
    wait("all lines", || {
        let more = read(&mut reader);
        reads += usize::from(!more.is_empty());
        got.extend(more);
        got.ends_with(&line(999))
    });
    let sent: Vec<u8> = (0..1000).flat_map(line).collect();
    assert_eq!(got, sent);
    assert!(reads < 100, "{reads} reads for 1,000 lines");
}

#[test]
fn line_after_an_incomplete_one_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir);
    let mut reader = reader(&path);
    let mut sink = Sink::open(&at(&path)).unwrap();
    let long = [b"x".repeat(5000), b"\n".to_vec()].concat();
    let mut lost = 0;
    for _ in 0..20 {
        lost += sink.write(&long, || true);
    }
    assert!(lost > 0);
    let mut piped = read(&mut reader);
    assert_eq!(sink.write(&line(1), || true), 0);
    piped.extend(read(&mut reader));
    let lines: Vec<_> = piped.split(|&byte| byte == b'\n').collect();
    let whole = lines.iter().filter(|line| line.len() == 5000).count() as u64;
    assert_eq!(whole + lost, 20);
    assert_eq!(lines[lines.len() - 2], &line(1)[..10]);
}

/// The pipe still contains the beginning of a line.
#[test]
fn reopened_fifo_continues_after_an_incomplete_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir);
    let mut reader = reader(&path);
    let mut sink = Sink::open(&at(&path)).unwrap();
    // Longer than one write.
    let long = [b"x".repeat(5000), b"\n".to_vec()].concat();
    while sink.write(&long, || true) == 0 {}
    sink.reopen();
    let mut next = Sink::open(&at(&path)).unwrap();
    next.follow(&mut sink);
    assert!(next.last_error().is_some(), "the reason is not logged yet");
    let mut piped = read(&mut reader);
    assert_eq!(next.write(&line(1), || true), 0);
    piped.extend(read(&mut reader));
    let last = piped.split_inclusive(|&byte| byte == b'\n').next_back();
    assert_eq!(last, Some(&*line(1)));
}

#[test]
fn unfinished_line_gets_a_line_feed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "{\"line").unwrap();
    let mut sink = Sink::open(&at(&path)).unwrap();
    assert_eq!(sink.write(&line(1), || true), 0);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"line\n{\"line\":1}\n");
    // Another process tears a line.
    fs::write(&path, "{\"lin").unwrap();
    sink.reopen();
    assert_eq!(sink.write(&line(2), || true), 0);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"lin\n{\"line\":2}\n");
}

#[test]
fn reopened_file_starts_on_a_new_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut sink = Sink::open(&at(&path)).unwrap();
    assert_eq!(sink.write(&line(1), || true), 0);
    // Another process tears a line.
    fs::write(&path, "{\"lin").unwrap();
    let mut next = Sink::open(&at(&path)).unwrap();
    next.follow(&mut sink);
    assert_eq!(next.write(&line(2), || true), 0);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"lin\n{\"line\":2}\n");

    // The line is completed after the new destination was opened.
    fs::write(&path, "{\"lin").unwrap();
    let mut last = Sink::open(&at(&path)).unwrap();
    fs::write(&path, line(3)).unwrap();
    last.follow(&mut next);
    assert_eq!(last.write(&line(4), || true), 0);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"line\":3}\n{\"line\":4}\n");
}

#[test]
fn queued_lines_are_written_before_switching_off() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = dir.path().join(format!("log{round}"));
        let (log, flusher) = AccessLog::open(&at(&path)).unwrap();
        for n in 0..100 {
            log.write(&line(n));
        }
        log.switch(log.prepare(&Access::Off).unwrap());
        log.write(&line(100));
        drop(flusher);
        let written: Vec<u8> = (0..100).flat_map(line).collect();
        assert_eq!(fs::read(&path).unwrap(), written);
        assert_eq!(log.lost(), 0);
    }
}

/// SIGUSR1 with a destination that cannot be reopened.
#[test]
fn reopening_does_not_give_up_on_a_slow_stream() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let shared = Arc::new(Shared::new(QUEUE));
    let sink = Sink::to_stream(fs::File::from(write));
    let mut writer = Writer::new(sink, Arc::clone(&shared));
    shared.reopen.store(true, Ordering::Release);
    let (done, written) = sync_channel(1);
    thread::spawn(move || {
        // More than the pipe can hold.
        writer.write(&line(1).repeat(20_000));
        done.send(()).unwrap();
    });
    // Longer than the writer waits for a reader that is stalled.
    let stalled = written.recv_timeout(Duration::from_millis(300));
    assert_eq!(stalled, Err(RecvTimeoutError::Timeout));
    let mut got = Vec::new();
    fs::File::from(read).read_to_end(&mut got).unwrap();
    written.recv().unwrap();
    assert_eq!(got, line(1).repeat(20_000));
    assert_eq!(shared.lost.load(Ordering::Relaxed), 0);
}

#[test]
fn socket_or_missing_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error = AccessLog::open(&at(&socket)).unwrap_err();
    assert!(error.to_string().contains("socket"), "{error}");
    let nowhere = dir.path().join("no/log");
    assert!(AccessLog::open(&at(&nowhere)).is_err());
}
