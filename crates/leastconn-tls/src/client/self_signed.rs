//! Self-signed server certificates.
//!
//! webpki treats every trust anchor as a CA, even if its basic constraints contain CA:FALSE. With a
//! self-signed certificate as a trust anchor, webpki would trust every certificate that is signed
//! with its key. Therefore each self-signed certificate has its own verifier, which is used only if
//! the server presents exactly this certificate.

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::expected::Expected;
use crate::{
    rejected,
    trust::{ChainError, ChainVerifier, Tolerance, Usage, verify_pinned},
};

/// Trusts certificates issued by the CAs, and individual self-signed certificates.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) authorities: ChainVerifier,
    pub(super) self_signed: Vec<(CertificateDer<'static>, ChainVerifier)>,
    /// Further requirements for the server's certificate.
    pub(super) expected: Expected,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.expected.needs_authority {
            verify_pinned(end_entity, now, Usage::Server)
                .map_err(|error| Error::from(error.to_rustls(now)))?;
            self.expected.check(end_entity, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let self_signed = self.self_signed.iter().find(|(own, _)| own == end_entity);
        let verifier = self_signed.map_or(&self.authorities, |(_, verifier)| verifier);
        verifier
            .verify(end_entity, intermediates, now, Tolerance::default())
            .map_err(|error| {
                // For `ChainError::Certificate`, the caller writes the text, because the
                // caller knows the server's name.
                if !matches!(error, ChainError::Certificate(_)) {
                    rejected::put(end_entity, Some(error.text(Usage::Server)));
                }
                Error::from(error.to_rustls(now))
            })?;
        self.expected.check(end_entity, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_schemes()
    }
}
