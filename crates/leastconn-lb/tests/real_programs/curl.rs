//! curl with a client certificate.

use std::net::SocketAddr;

use tokio::process::Command;

use crate::{program::tool, site::Certs};

/// A curl command that connects to the balancer at `address` as `https://lb.com/`, with
/// the certificate of `client` or without one.
pub(crate) fn get(certs: &Certs, address: SocketAddr, client: Option<&str>) -> Command {
    let mut curl = tool("curl");
    // -q: ignore the user's .curlrc.
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
