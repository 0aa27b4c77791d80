//! Texts for client certificates that are not accepted.

use rustls::CertificateError;

use super::{certificate, date};

pub(crate) fn client_certificate(error: &CertificateError) -> String {
    use CertificateError as C;
    match error {
        C::UnknownIssuer => "no authority of `client_ca` issued the client's certificate, or the \
                             client does not send an intermediate"
            .to_owned(),
        C::BadSignature => "invalid signature: the client's certificate is not signed by the \
                            authority that it names, or the client has another key"
            .to_owned(),
        C::ExpiredContext { not_after, .. } => format!(
            "the client's certificate, or one above it, was valid until {}",
            date(*not_after)
        ),
        C::NotValidYetContext { not_before, .. } => format!(
            "the client's certificate, or one above it, is not valid before {}",
            date(*not_before)
        ),
        C::Revoked => "the client's certificate, or one above it, is revoked".to_owned(),
        C::UnknownRevocationStatus => "`crl` has no CRL of the issuer of the client's \
                                       certificate, or of one above it"
            .to_owned(),
        C::ExpiredRevocationList => "the CRL of its issuer has expired".to_owned(),
        C::ExpiredRevocationListContext { next_update, .. } => format!(
            "the CRL of its issuer expired at {}: replace it with a current one",
            date(*next_update)
        ),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => {
            "the client's certificate is not for clients: its extended key usage lacks clientAuth"
                .to_owned()
        }
        other => certificate("the client's", other),
    }
}
