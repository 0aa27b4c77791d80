//! The result of a handshake.

use rustls::{CipherSuite, ProtocolVersion, pki_types::CertificateDer};

/// The negotiated parameters and the peer's certificates.
pub(super) struct Negotiated {
    pub(super) version: Option<ProtocolVersion>,
    pub(super) suite: Option<CipherSuite>,
    /// The peer's certificates, the leaf first.
    pub(super) peer: Option<Vec<CertificateDer<'static>>>,
    /// Whether an earlier session was resumed. If so, the peer sent neither a certificate
    /// nor a proof of its key.
    pub(super) resumed: bool,
    pub(super) alpn: Option<Box<[u8]>>,
}

pub(super) fn to_owned(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    let owned = |der: &CertificateDer<'_>| der.clone().into_owned();
    chain.iter().map(owned).collect()
}

/// The name of a version in the access log.
pub(super) const fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "1.3",
        ProtocolVersion::TLSv1_2 => "1.2",
        _ => "unknown",
    }
}
