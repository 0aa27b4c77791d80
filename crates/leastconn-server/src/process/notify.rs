//! Notifications to the service manager, sd_notify(3).
//!
//! Each notification is one datagram to the socket in `NOTIFY_SOCKET`: a path or, if it starts with
//! `@`, an abstract name. Without the variable, nothing is sent. Sending never blocks: if the
//! socket's buffer is full, the notification is lost and a warning is logged.

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

/// Environment variable with the watchdog timeout in microseconds.
pub(crate) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// Environment variable with the PID of the process that must send the keep-alives.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Whether there is a service manager to notify.
pub fn is_enabled() -> bool {
    socket().is_some()
}

/// Reports that the service is ready.
pub fn ready() {
    send("READY=1");
}

/// Reports that the service is ready, with this process as its main process.
pub fn ready_as_main_process() {
    send(&format!("READY=1\nMAINPID={}", std::process::id()));
}

/// Reports that a reload has started. A call to [`ready`] must follow.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    // With `Type=notify-reload`, systemd uses the time to distinguish this reload from earlier
    // reloads.
    send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// Reports that the service is stopping.
pub fn stopping() {
    send("STOPPING=1");
}

/// Reports that another process is now the service's main process.
pub fn main_pid(pid: u32) {
    send(&format!("MAINPID={pid}"));
}

/// Sets the status line that `systemctl status` shows.
pub fn status(line: &str) {
    send(&format!("STATUS={}", line.replace(['\n', '\r'], " ")));
}

/// Sends a watchdog keep-alive; see [`watchdog_timeout`].
pub fn alive() {
    send("WATCHDOG=1");
}

/// The watchdog timeout of this process, if the service manager has set one.
pub fn watchdog_timeout() -> Option<Duration> {
    watchdog_timeout_of(std::process::id(), |name| std::env::var(name).ok())
}

fn watchdog_timeout_of(pid: u32, variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    if variable(WATCHDOG_PID).is_some_and(|expected| expected.parse() != Ok(pid)) {
        return None;
    }
    let microseconds = variable(WATCHDOG_USEC)?.parse().ok()?;
    // Shorter timeouts cannot be met.
    (microseconds >= 2_000).then(|| Duration::from_micros(microseconds))
}

fn socket() -> Option<OsString> {
    std::env::var_os(NOTIFY_SOCKET).filter(|socket| !socket.is_empty())
}

fn send(message: &str) {
    let Some(socket) = socket() else { return };
    if let Err(error) = send_to(&socket, message) {
        tracing::warn!(socket = %socket.display(), notification = message, %error, "cannot notify the service manager");
    }
}

fn send_to(socket: &OsStr, message: &str) -> io::Result<()> {
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
    from.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(at: &UnixDatagram) -> String {
        let mut message = [0; 256];
        let length = at.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    #[test]
    fn message_arrives_at_path_and_abstract_socket() {
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
    fn unreachable_socket_is_an_error() {
        for address in ["/nonexistent/notify", "@leastconn-nobody", "vsock:2:1234"] {
            assert!(
                send_to(OsStr::new(address), "READY=1").is_err(),
                "{address}"
            );
        }
    }

    #[test]
    fn watchdog_applies_only_to_its_pid() {
        let of = |usec: &'static str, pid: Option<&'static str>| {
            watchdog_timeout_of(7, |name| match name {
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
        assert_eq!(watchdog_timeout_of(7, |_| None), None);
    }
}
