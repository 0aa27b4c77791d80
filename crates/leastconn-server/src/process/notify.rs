//! Telling the service manager how the service is doing: sd_notify(3).
//!
//! One datagram for each piece of news, to the socket that `NOTIFY_SOCKET` names; by
//! path or, with `@`, in the abstract namespace. Where it is not set nobody wants to
//! know, and nothing happens. News is small, and a manager that does not read it must
//! not hold us up: what it cannot take at once is lost, and said to be.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// How often the manager expects to hear of us, in microseconds.
pub(crate) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// Whom it expects to hear of.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Whether somebody wants to know.
pub fn is_wanted() -> bool {
    socket().is_some()
}

/// It serves.
pub fn ready() {
    send("READY=1");
}

/// It serves, in place of the process that was the service's main one.
pub fn ready_in_its_place() {
    send(&format!("READY=1\nMAINPID={}", std::process::id()));
}

/// It reads its configuration anew. [`ready`] must follow.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    // The time is what `Type=notify-reload` knows our answer from an older one by.
    send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// It is about to end.
pub fn stopping() {
    send("STOPPING=1");
}

/// Another process is the service's main one from here on.
pub fn main_pid(pid: u32) {
    send(&format!("MAINPID={pid}"));
}

/// What `systemctl status` shows: one line.
pub fn status(line: &str) {
    send(&format!("STATUS={}", line.replace(['\n', '\r'], " ")));
}

/// It is alive, as the manager wants to hear again and again: see [`patience`].
pub fn alive() {
    send("WATCHDOG=1");
}

/// How long the manager waits for news of this process, if it does.
pub fn patience() -> Option<Duration> {
    patience_with(std::process::id(), |name| std::env::var(name).ok())
}

/// Likewise, with process `pid`.
fn patience_with(pid: u32, variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    if variable(WATCHDOG_PID).is_some_and(|expected| expected.parse() != Ok(pid)) {
        return None;
    }
    let microseconds = variable(WATCHDOG_USEC)?.parse().ok()?;
    // Less than a timer can do is no request that could be met.
    (microseconds >= 2_000).then(|| Duration::from_micros(microseconds))
}

fn socket() -> Option<OsString> {
    std::env::var_os(NOTIFY_SOCKET).filter(|socket| !socket.is_empty())
}

fn send(news: &str) {
    let Some(socket) = socket() else { return };
    if let Err(error) = send_to(&socket, news) {
        tracing::warn!(socket = %socket.display(), %error, "the service manager was not told {news:?}");
    }
}

fn send_to(socket: &OsStr, news: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => {
            let text = "NOTIFY_SOCKET is neither an absolute path nor an abstract name";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    };
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    from.send_to_addr(news.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(at: &UnixDatagram) -> String {
        let mut news = [0; 256];
        let length = at.recv(&mut news).unwrap();
        String::from_utf8_lossy(&news[..length]).into_owned()
    }

    #[test]
    fn news_arrives_by_path_and_in_the_abstract_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let at = UnixDatagram::bind(&path).unwrap();
        send_to(path.as_os_str(), "READY=1\nSTATUS=fine").unwrap();
        assert_eq!(received(&at), "READY=1\nSTATUS=fine");

        let name = format!("leastconn-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let at = UnixDatagram::bind_addr(&address).unwrap();
        send_to(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(received(&at), "STOPPING=1");
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        for nobody in ["/nonexistent/notify", "@leastconn-nobody", "vsock:2:1234"] {
            assert!(send_to(OsStr::new(nobody), "READY=1").is_err(), "{nobody}");
        }
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_is_meant() {
        let of = |usec: &'static str, pid: Option<&'static str>| {
            patience_with(7, |name| match name {
                WATCHDOG_USEC => Some(usec.to_owned()),
                _ => pid.map(str::to_owned),
            })
        };
        let half_a_minute = Some(Duration::from_secs(30));
        assert_eq!(of("30000000", None), half_a_minute);
        assert_eq!(of("30000000", Some("7")), half_a_minute);
        assert_eq!(of("30000000", Some("8")), None);
        assert_eq!(of("0", None), None);
        assert_eq!(of("soon", None), None);
        assert_eq!(patience_with(7, |_| None), None);
    }
}
