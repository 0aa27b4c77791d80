//! What a server's certificate must be valid for: a name, a URI or a key.

use std::sync::Arc;

use rustls::{
    CertificateError, Error, OtherError,
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};

use crate::{
    certificate::Certificate,
    error_text::{listed, shortened},
    pattern::UriPattern,
    settings::ClientSettings,
    trust::{Pins, parseable},
};

/// The requirements that a server's certificate must meet.
#[derive(Debug)]
pub(super) struct Expected {
    verifies_name: bool,
    uris: Box<[UriPattern]>,
    pins: Pins,
    /// Whether a CA must have issued the certificate. If `false`, a pinned key is enough.
    pub(super) needs_authority: bool,
}

/// The error for a certificate that belongs to another server.
#[derive(Debug, thiserror::Error)]
#[error("the server's certificate {0}")]
struct OtherServer(String);

fn other_server(what: String) -> Error {
    CertificateError::Other(OtherError(Arc::new(OtherServer(what)))).into()
}

impl Expected {
    pub(super) fn of(tls: &ClientSettings) -> Self {
        Self {
            verifies_name: tls.verifies_name(),
            uris: tls.uris.clone().into(),
            pins: Pins::new(tls.pins.iter().map(|pin| pin.as_str().to_owned())),
            needs_authority: tls.needs_authority,
        }
    }

    /// # Errors
    /// The first requirement that the certificate does not meet.
    pub(super) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> Result<(), Error> {
        if self.verifies_name {
            let readable = parseable(certificate);
            verify_server_name(&ParsedCertificate::try_from(&*readable)?, name)?;
        }
        if !self.uris.is_empty() {
            let read = Certificate::from_der(certificate)
                .map_err(|why| other_server(format!("is ambiguous: {why}")))?;
            let matches = |uri: &String| self.uris.iter().any(|wanted| wanted.matches(uri));
            if !read.uri.iter().any(matches) {
                return Err(other_server(format!(
                    "is not for `{}`: {}",
                    self.uris[0].as_str(),
                    uris(&read.uri)
                )));
            }
        }
        if !self.pins.is_empty() && !self.pins.contain(certificate) {
            return Err(other_server(
                "has a key that `pin` does not name".to_owned(),
            ));
        }
        Ok(())
    }
}

fn uris(all: &[String]) -> String {
    if all.is_empty() {
        return "it has no URI".to_owned();
    }
    format!("it is for {}", listed(all.iter().map(|uri| shortened(uri))))
}
