//! Servers whose certificate nobody but themselves has signed.
//!
//! The verifier takes whatever it is given for an authority, also a certificate that
//! says that it is none, and would trust all that its key has signed. So each of these
//! has a verifier of its own, which is asked about that very certificate only.

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::tls::chain::{ChainVerifier, Tolerance};

/// Trusts what authorities have issued, and each of some certificates.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) authorities: ChainVerifier,
    pub(super) alone: Vec<(CertificateDer<'static>, ChainVerifier)>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
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
        let alone = self.alone.iter().find(|(own, _)| own == end_entity);
        let verifier = alone.map_or(&self.authorities, |(_, verifier)| verifier);
        verifier
            .verify(end_entity, intermediates, now, Tolerance::default())
            .map_err(|error| Error::from(error.to_rustls(now)))?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
