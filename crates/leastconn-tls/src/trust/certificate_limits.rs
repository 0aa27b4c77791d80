//! Limits on the number of elements in the certificates that a client sends.
//!
//! A client without a valid certificate can send thousands of elements in one message, and
//! every parser spends time on each of them. This module counts elements before any parser
//! sees the certificates. It reads only tags and lengths.

use rustls::pki_types::CertificateDer;

use crate::der::{EXTENSIONS, Reader, SEQUENCE, SET};

/// Maximum number of extensions in one certificate. Public CAs add about ten.
pub(super) const MAX_EXTENSIONS: usize = 64;

/// Maximum number of attributes in all subjects and issuers of a chain. It must leave room
/// for the organizational units that [`crate::certificate::MAX_NAMES`] allows.
pub(super) const MAX_ATTRIBUTES: usize = 1024;

/// The kind of element that a client's certificates have too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyElements {
    /// The client's own certificate has too many extensions.
    #[error(
        "the client's certificate has {count} extensions; at most {MAX_EXTENSIONS} are accepted"
    )]
    Extensions { count: usize },
    /// An intermediate has too many extensions.
    #[error(
        "an intermediate certificate that the client sent has {count} extensions; at most \
         {MAX_EXTENSIONS} are accepted"
    )]
    IntermediateExtensions { count: usize },
    /// The subjects and issuers of all certificates together have too many attributes.
    #[error(
        "the subjects and issuers of the client's certificates have {count} attributes; at most \
         {MAX_ATTRIBUTES} are accepted"
    )]
    Attributes { count: usize },
}

/// Checks the chain that a client sent.
///
/// # Errors
/// If a limit is exceeded. Elements after an encoding error are not counted: no parser reads
/// past the error.
pub(super) fn check(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), TooManyElements> {
    let mut attributes = 0;
    let sent = std::iter::once(end_entity).chain(intermediates);
    for (position, der) in sent.enumerate() {
        let mut elements = Elements::default();
        elements.count(der);
        let count = elements.extensions;
        if count > MAX_EXTENSIONS {
            return Err(match position {
                0 => TooManyElements::Extensions { count },
                _ => TooManyElements::IntermediateExtensions { count },
            });
        }
        attributes += elements.attributes;
    }
    if attributes > MAX_ATTRIBUTES {
        return Err(TooManyElements::Attributes { count: attributes });
    }
    Ok(())
}

/// The elements of one certificate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Elements {
    extensions: usize,
    /// Attributes of subject and issuer.
    attributes: usize,
}

impl Elements {
    /// Returns `None` at the first encoding error, with the elements before it counted.
    fn count(&mut self, der: &[u8]) -> Option<()> {
        let certificate = Reader(der).content(SEQUENCE)?;
        let mut fields = Reader::certificate_fields(certificate)?;
        let _serial = fields.next()?;
        let _algorithm = fields.next()?;
        self.count_attributes(fields.content(SEQUENCE)?)?;
        let _validity = fields.next()?;
        self.count_attributes(fields.content(SEQUENCE)?)?;
        let _key = fields.next()?;
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                let mut extensions = Reader(Reader(content).content(SEQUENCE)?);
                while extensions.next().is_some() {
                    self.extensions += 1;
                }
            }
        }
        Some(())
    }

    /// Counts the attributes of a name. An empty relative name counts as one attribute.
    fn count_attributes(&mut self, name: &[u8]) -> Option<()> {
        let mut relative_names = Reader(name);
        while relative_names.peek().is_some() {
            let mut attributes = Reader(relative_names.content(SET)?);
            self.attributes += 1;
            attributes.next();
            while attributes.next().is_some() {
                self.attributes += 1;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
