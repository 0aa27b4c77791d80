//! Receives PROXY headers from trusted proxies, and encodes PROXY headers for servers.

use std::{pin::pin, time::Instant};

use leastconn::ClientId;
use leastconn_config::TrustedProxies;
use leastconn_proxy_protocol::{ClientTls, Endpoints, Header, Version};
use tokio::{net::TcpStream, time::sleep_until};

use super::{access_record::AccessRecord, deadline::before_deadline, ended::Ended, proxy_header};
use crate::reason_code::ReasonCode;

/// Receives the PROXY header, which precedes all other data. Stores the client's address in
/// the connection's handle.
pub(super) async fn receive_client_address(
    socket: &mut TcpStream,
    proxies: &TrustedProxies,
    deadline: Instant,
    record: &AccessRecord,
) -> Result<(), Ended> {
    let peer = record.connection().source().ip();
    if !proxies.contains(peer) {
        let peer = peer.to_canonical();
        let detail = format!("{peer} is not in `proxy_protocol_from`");
        return Err(Ended::new(ReasonCode::HandshakeFailed, detail));
    }
    let mut received = Vec::new();
    let header = before_deadline(
        record,
        pin!(sleep_until(deadline.into())),
        ReasonCode::HandshakeTimeout,
        pin!(proxy_header::receive(socket, &mut received)),
    )
    .await;
    let header = header.map_err(|ended| Ended {
        detail: (ended.reason == ReasonCode::HandshakeTimeout)
            .then(|| proxy_header::timeout_detail(received.len())),
        ..ended
    })?;
    if let Header::Proxied(ends) = header? {
        record.connection().set_proxied(ends);
    }
    Ok(())
}

/// Encodes the PROXY header that is sent to a server before all other data.
pub(super) fn header_for_server(
    version: Version,
    socket: Option<&TcpStream>,
    identity: &ClientId,
    record: &AccessRecord,
) -> Result<Vec<u8>, Ended> {
    let connection = record.connection();
    let chain = connection.chain();
    let certificate = chain.map(|chain| &chain.certificate);
    let tls = record.tls().map(|(tls_version, cipher)| {
        let mut tls = ClientTls::new(tls_version, cipher);
        tls.resumed = record.is_resumed();
        tls.certificate = certificate.is_some();
        tls.cn = certificate.and_then(|certificate| certificate.cn.as_deref());
        tls.server_name = connection.sni();
        tls.alpn = record.alpn();
        // Without a certificate, the identity is the client's address, which the header already
        // contains.
        tls.identity = certificate.map(|_| identity.as_str());
        tls.der = chain.map(|chain| &**chain.leaf());
        tls
    });
    let ends = match connection.proxied() {
        Some(&ends) => ends,
        // A client of a UNIX socket has no IP address.
        None if connection.unix().is_some() => return Ok(version.encode_unspecified(tls.as_ref())),
        None => {
            let socket = socket.ok_or(ReasonCode::ClientReset)?;
            let local = socket
                .local_addr()
                .map_err(|error| Ended::new(ReasonCode::ClientReset, error.to_string()))?;
            Endpoints::new(connection.source(), local)
        }
    };
    Ok(version.encode_proxied(ends, tls.as_ref()))
}
