//! Commands for `openssl s_client`.

use std::net::SocketAddr;

use tokio::process::Command;

use crate::{program::tool, site::Certs};

/// An HTTP/1.0 request. nginx closes the connection after the response, so s_client exits.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// An s_client command that connects to `address`, with the certificate of `client` or
/// without one.
pub(crate) fn s_client(certs: &Certs, address: SocketAddr, client: Option<&str>) -> Command {
    let mut openssl = tool("openssl");
    openssl
        .args(["s_client", "-connect", &address.to_string()])
        .args(["-servername", "lb.com", "-verify_return_error", "-CAfile"])
        .arg(certs.path("ca/ca.crt"));
    if let Some(client) = client {
        let (cert, key) = certs.pair(client);
        openssl.arg("-cert").arg(cert).arg("-key").arg(key);
    }
    openssl
}
