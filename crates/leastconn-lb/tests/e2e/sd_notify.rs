//! sd_notify: each notification comes from the process that the service manager considers the
//! main process (`NotifyAccess=main`).

use std::io::Write;
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use leastconn_testkit::{DEADLINE, Signal, Upstream, eventually, within};
use rustix::io::IoSliceMut;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
};
use tokio::sync::mpsc::{Receiver, channel};

use crate::ctl::{SOCKET, ctl};
use crate::support::upgrading::{
    open_files, own_process_group, signal, start, upgrade, wait_process_exit,
};
use crate::support::{CLIENT1, Site, many_clients, talk};

/// A notification: PID of the sender, and text.
type News = (u32, String);

/// Receives notifications on this socket, as systemd does.
fn listen(socket: UnixDatagram) -> Receiver<News> {
    set_socket_passcred(&socket, true).unwrap();
    let (sender, receiver) = channel(1000);
    std::thread::spawn(move || {
        loop {
            let mut text = [0; 1024];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut text)];
            let got = recvmsg(&socket, &mut into, &mut ancillary, RecvFlags::empty()).unwrap();
            let pid = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(credentials) => {
                    Some(credentials.pid.as_raw_nonzero().get().unsigned_abs())
                }
                _ => None,
            });
            let text = String::from_utf8_lossy(&text[..got.bytes]).into_owned();
            if sender.blocking_send((pid.unwrap(), text)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Returns the next notification that is neither a watchdog keep-alive nor a status.
async fn next(news: &mut Receiver<News>) -> News {
    loop {
        let news = within(DEADLINE, "news", news.recv()).await.unwrap();
        if news.1 != "WATCHDOG=1" && !news.1.starts_with("STATUS=") {
            return news;
        }
    }
}

async fn next_starting_with(news: &mut Receiver<News>, start: &str) -> News {
    loop {
        let news = within(DEADLINE, start, news.recv()).await.unwrap();
        if news.1.starts_with(start) {
            return news;
        }
    }
}

#[tokio::test]
async fn lifecycle_is_reported() {
    let web = Upstream::named("web1").await;
    let name = format!("leastconn-e2e-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let mut news = listen(UnixDatagram::bind_addr(&address).unwrap());
    let lb = Site::usual(&[&web])
        .start_with(|command| {
            own_process_group(command);
            command.env("NOTIFY_SOCKET", format!("@{name}"));
        })
        .await;
    let first = lb.pid();
    let files = open_files(first);
    assert_eq!(next(&mut news).await, (first, "READY=1".to_owned()));

    for config in [lb.config(), "nonsense".to_owned()] {
        lb.reload(&config).await;
        let (pid, reloading) = next(&mut news).await;
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(time.unwrap().parse::<u64>().unwrap() > 0);
        assert_eq!(pid, first);
        // The manager is also notified after a rejected reload, because the service is ready
        // again.
        assert_eq!(next(&mut news).await, (first, "READY=1".to_owned()));
    }
    // A failed upgrade is logged, but not reported to the manager.
    lb.signal(Signal::USR2);
    lb.wait_log(
        |event| crate::support::upgrading::message(event).starts_with("upgrade failed"),
        DEADLINE,
    )
    .await;
    // Shortly after the failed upgrade, the process closes the duplicates of the sockets that
    // it had passed on.
    eventually(DEADLINE, || async {
        let open = open_files(first);
        (open <= files)
            .then_some(())
            .ok_or(format!("{open} files, not {files}"))
    })
    .await
    .unwrap();

    lb.write_config(&lb.config());
    let second = upgrade(&lb, first).await;
    assert_eq!(next(&mut news).await, (first, format!("MAINPID={second}")));
    let ready = format!("READY=1\nMAINPID={second}");
    assert_eq!(next(&mut news).await, (second, ready));
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    signal(second, Signal::TERM);
    assert_eq!(next(&mut news).await, (second, "STOPPING=1".to_owned()));
    wait_process_exit(second).await;
    assert!(news.try_recv().is_err(), "unexpected notifications");
}

/// If the client that requested a reload disconnects, the reload still finishes. Otherwise, the
/// service manager would get no notification and would wait for the end of the reload.
#[tokio::test]
async fn end_of_an_abandoned_reload_is_reported() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).admin(SOCKET);
    let notify = site.dir.path().join("notify");
    let mut news = listen(UnixDatagram::bind(&notify).unwrap());
    let lb = site
        .start_with(|command| {
            command.env("NOTIFY_SOCKET", &notify);
        })
        .await;
    next_starting_with(&mut news, "READY=1").await;
    let files = lb.open_fds();

    lb.write_config(&(lb.config() + &many_clients()));
    let mut requester = UnixStream::connect(lb.dir().join("lb.sock")).unwrap();
    requester
        .write_all(b"POST /api/v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    next_starting_with(&mut news, "RELOADING=1").await;
    drop(requester);
    // Wait until the balancer has closed its side of the connection.
    eventually(DEADLINE, || async {
        let open = lb.open_fds();
        (open <= files).then_some(()).ok_or(open.to_string())
    })
    .await
    .unwrap();
    next_starting_with(&mut news, "READY=1").await;
    lb.write_config(&lb.config());
    assert_eq!(ctl(&lb, &["reload"]).await.ok(), "applied\n");
    lb.quiet().await;
}

#[tokio::test]
async fn watchdog_and_status_are_reported() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let path = site.dir.path().join("notify");
    let mut news = listen(UnixDatagram::bind(&path).unwrap());
    let start = tokio::time::Instant::now();
    let lb = site
        .start_with(|command| {
            own_process_group(command);
            command.env("NOTIFY_SOCKET", &path);
            command.env("WATCHDOG_USEC", "100000");
        })
        .await;
    let first = lb.pid();
    let (mut beats, mut servers) = (0, false);
    while beats < 8 || !servers {
        let (pid, text) = within(DEADLINE, "news", news.recv()).await.unwrap();
        assert_eq!(pid, first);
        beats += u32::from(text == "WATCHDOG=1");
        servers |= text.starts_with("STATUS=") && text.contains("servers up 1/1");
    }
    // Keep-alives are sent every 50 ms and not more often, even if the test reads them
    // late.
    let most = start.elapsed().as_millis() / 50 + 2;
    assert!(u128::from(beats) <= most, "{beats} of {most}");
    let second = upgrade(&lb, first).await;
    next_starting_with(&mut news, "READY=1\nMAINPID=").await;
    for _ in 0..4 {
        assert_eq!(next_starting_with(&mut news, "WATCHDOG=1").await.0, second);
    }
    signal(second, Signal::TERM);
    next_starting_with(&mut news, "STOPPING=1").await;
    wait_process_exit(second).await;
}

#[tokio::test]
async fn watchdog_of_another_process_is_ignored() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let path = site.dir.path().join("notify");
    let mut news = listen(UnixDatagram::bind(&path).unwrap());
    let lb = site
        .start_with(|command| {
            command.env("NOTIFY_SOCKET", &path);
            command.env("WATCHDOG_USEC", "2000");
            command.env("WATCHDOG_PID", "1");
        })
        .await;
    // If the watchdog were enabled, many keep-alives would arrive during this reload.
    lb.signal(Signal::HUP);
    next_starting_with(&mut news, "RELOADING=1").await;
    next_starting_with(&mut news, "READY=1").await;
    lb.signal(Signal::TERM);
    let mut all = Vec::new();
    loop {
        let (_, text) = within(DEADLINE, "the end", news.recv()).await.unwrap();
        all.push(text);
        if all.last().unwrap() == "STOPPING=1" {
            break;
        }
    }
    assert!(!all.contains(&"WATCHDOG=1".to_owned()), "{all:?}");
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
}

#[tokio::test]
async fn nothing_is_sent_without_notify_socket() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::usual(&[&web])).await;
    let pid = upgrade(&lb, lb.pid()).await;
    signal(pid, Signal::TERM);
    wait_process_exit(pid).await;
    assert!(!lb.stderr().contains("cannot notify"), "{}", lb.stderr());
}
