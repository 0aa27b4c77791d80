//! `healthcheck`: for the HEALTHCHECK of a container without a shell or curl.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use super::{DONE, FAILED, INVALID, fail};
use leastconn_config::AdminAddress;
use leastconn_server::api::client::{Client, Target};

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// The configuration file that names the admin address or socket [default:
    /// leastconn.toml, then /etc/leastconn/leastconn.toml].
    #[arg(long, short, value_name = "FILE", conflicts_with = "address")]
    config: Option<PathBuf>,
    /// The admin address; overrides the configuration.
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    address: Option<SocketAddr>,
    /// Timeout in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    timeout: u64,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let hint = || match text.strip_prefix("localhost:") {
        Some(port) => format!("expected an IP address and a port: 127.0.0.1:{port}"),
        None => {
            "expected an IP address and a port, such as 127.0.0.1:9901 or [::1]:9901".to_owned()
        }
    };
    text.parse().map_err(|_| hint())
}

pub(super) fn run(args: HealthcheckArgs) -> ExitCode {
    let given = args.address.map(|address| Ok(connectable(address)));
    let target = match given.unwrap_or_else(|| configured(args.config)) {
        Ok(target) => target,
        Err(code) => return code,
    };
    let limit = Duration::from_secs(args.timeout.max(1));
    let client = Client::new(target).within(limit);
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(client.ready()) {
        Ok((true, _)) => ExitCode::from(DONE),
        Ok((false, body)) => {
            let target = client.target();
            fail(&format!("not ready: {target} answered {body:?}"), FAILED)
        }
        Err(error) => fail(&error, FAILED),
    }
}

fn configured(path: Option<PathBuf>) -> Result<Target, ExitCode> {
    let path = leastconn_config::find(path).map_err(|error| fail(&error, INVALID))?;
    match leastconn_config::admin_address(&path).map_err(|error| fail(&error, INVALID))? {
        AdminAddress {
            bind: Some(address),
            ..
        } => Ok(connectable(address)),
        AdminAddress {
            socket: Some(path), ..
        } => Ok(Target::Socket(path)),
        AdminAddress { broken, .. } => Err(no_admin(&path, broken)),
    }
}

/// Reports that the configuration has no admin address or socket, or that its `[admin]`
/// table is invalid (`broken`).
pub(super) fn no_admin(path: &Path, broken: Option<String>) -> ExitCode {
    let error = broken.unwrap_or_else(|| {
        format!(
            "{} has no [admin] table with `bind` or `socket`: add one, then restart the balancer, or reload \
             it: `kill -HUP PID`",
            path.display()
        )
    });
    fail(&error, INVALID)
}

/// Error for a configuration whose `[admin]` table, if there is one, has no `socket`.
pub(super) fn no_socket(path: &Path, has_admin: bool) -> String {
    let (lacks, add) = if has_admin {
        ("`socket` in its [admin] table", "")
    } else {
        ("[admin] table", "`[admin]` with ")
    };
    // Without a socket, `ctl reload` cannot be used.
    format!(
        "{} has no {lacks}: add {add}`socket = \"leastconn.sock\"`, then restart the balancer, or \
         reload it: `kill -HUP PID`",
        path.display()
    )
}

/// Returns the address to connect to for a listening address. An unspecified address such
/// as `0.0.0.0` is replaced by loopback.
pub(super) fn connectable(address: SocketAddr) -> Target {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Target::Address(SocketAddr::new(ip, address.port()))
}
