//! `healthcheck`: for a container's HEALTHCHECK, which has no shell and no curl.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use super::{DONE, FAILED, INVALID, fail};
use crate::config;

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// The configuration file that tells the admin address.
    #[arg(long, short, value_name = "FILE", conflicts_with = "address")]
    config: Option<PathBuf>,
    /// The admin address, instead of the configuration's.
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

pub(super) fn run(args: HealthcheckArgs) -> ExitCode {
    let address = match args.address.map_or_else(|| configured(args.config), Ok) {
        Ok(address) => address,
        Err(code) => return code,
    };
    match ask(reachable(address), Duration::from_secs(args.timeout.max(1))) {
        Ok((200, _)) => ExitCode::from(DONE),
        Ok((status, body)) => fail(
            &format!("not ready: {address} answers {status} {}", body.trim()),
            FAILED,
        ),
        Err(error) => fail(&format!("no answer from {address}: {error}"), FAILED),
    }
}

/// The admin address alone: what else is in the file, and whether it is right,
/// says nothing about the process that read it some time ago. A file that is
/// being edited, or keys that this user may not read, must not get a balancer
/// restarted that runs well.
fn configured(path: Option<PathBuf>) -> Result<SocketAddr, ExitCode> {
    let path = config::find(path).map_err(|error| fail(&error, INVALID))?;
    if let Some(address) = written(&path) {
        return Ok(address);
    }
    // Not plainly there: from a variable, in a broken file, or not at all.
    let loaded = config::load(&path).map_err(|problems| {
        eprintln!("{problems}\n");
        fail(&"no admin address to ask", INVALID)
    })?;
    loaded.config.admin.map(|admin| admin.bind).ok_or_else(|| {
        fail(
            &format!(
                "{} has no [admin] table, so the balancer cannot be asked",
                path.display()
            ),
            INVALID,
        )
    })
}

fn written(path: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(path).ok()?;
    let table: toml::Table = toml::from_str(&text).ok()?;
    table.get("admin")?.get("bind")?.as_str()?.parse().ok()
}

/// An address to connect to for one that is listened on.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn ask(address: SocketAddr, limit: Duration) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(16 * 1024).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))?;
    Ok((status, body.to_owned()))
}
