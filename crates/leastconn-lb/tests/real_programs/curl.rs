//! curl with a client certificate.

use std::net::SocketAddr;

use tokio::process::Command;

use crate::{program::tool, site::Certs};

/// curl towards `https://lb.com/`, which is the balancer at `address`; as `client`,
/// or without a certificate.
pub(crate) fn get(certs: &Certs, address: SocketAddr, client: Option<&str>) -> Command {
    let mut curl = tool("curl");
    // -q: no .curlrc of whoever runs the test
    curl.args(["-q", "--silent", "--show-error", "--fail", "--noproxy", "*"])
        .args(["--max-time", "20", "--cacert"])
        .arg(certs.path("ca/ca.crt"))
        .args(["--connect-to", &format!("lb.com:443:{address}")]);
    if let Some(client) = client {
        let (cert, key) = certs.pair(client);
        curl.arg("--cert").arg(cert).arg("--key").arg(key);
    }
    curl
}
