//! The result of a handshake.

use rustls::{CipherSuite, ProtocolVersion, pki_types::CertificateDer};

/// What was negotiated, and with whom.
pub(super) struct Negotiated {
    pub(super) version: Option<ProtocolVersion>,
    pub(super) suite: Option<CipherSuite>,
    /// The leaf, then what came with it.
    pub(super) peer: Option<Vec<CertificateDer<'static>>>,
    /// Without a certificate or a proof of its key, by a session of before.
    pub(super) resumed: bool,
    /// The application protocol that was agreed on.
    pub(super) alpn: Option<Box<[u8]>>,
}

/// A copy of what rustls has.
pub(super) fn to_owned(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    let owned = |der: &CertificateDer<'_>| der.clone().into_owned();
    chain.iter().map(owned).collect()
}

/// A version's name in the log.
pub(super) const fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "1.3",
        ProtocolVersion::TLSv1_2 => "1.2",
        _ => "unknown",
    }
}
