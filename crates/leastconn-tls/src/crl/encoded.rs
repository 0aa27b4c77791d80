//! Parses encoded CRLs. The entries, of which there can be a million, are read in one pass and
//! without an allocation for each entry.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm,
};
use x509_parser::{
    certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer,
    revocation_list::CertificateRevocationList, x509::X509Version,
};

use super::{
    MALFORMED, RevocationList, SignatureError, display_name, malformed, scope::Scope,
    serials::Serials, signature, timestamp, without_zeros,
};
use crate::{
    der::{INTEGER, Reader, SEQUENCE, encode},
    distinguished_name,
};

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A CRL with its encoding, which is needed to verify the signature.
#[derive(Debug)]
pub struct EncodedList {
    der: CertificateRevocationListDer<'static>,
    list: RevocationList,
}

impl EncodedList {
    /// # Errors
    /// A clause that refers to the CRL as "it", such as "it is malformed or truncated".
    pub fn parse(der: CertificateRevocationListDer<'static>) -> Result<Self, String> {
        let (header, entries) = split(&der)?;
        let (_, parsed) = CertificateRevocationList::from_der(&header).map_err(malformed)?;
        signature::parts(&der).ok_or("it is not a signed structure")?;
        let mut scope = Scope::default();
        let mut key_id = None;
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::IssuingDistributionPoint(point) => {
                    scope = Scope::new(point, extension.value);
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    key_id = id.key_identifier.as_ref().map(|id| id.0.into());
                }
                _ => {}
            }
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, &der).as_ref());
        let list = RevocationList {
            digest: sha256,
            issuer: display_name(parsed.issuer()),
            canonical_issuer: distinguished_name::canonical(parsed.issuer().as_raw()).into(),
            number: parsed
                .crl_number()
                .map(|number| without_zeros(&number.to_bytes_be()).into()),
            this_update: timestamp(parsed.last_update()),
            next_update: parsed.next_update().map(timestamp),
            is_version_2: parsed.version() == Some(X509Version::V2),
            key_id,
            scope,
            serials: serials(entries).ok_or(MALFORMED)?,
        };
        Ok(Self { der, list })
    }

    /// Whether these bytes are a CRL, and nothing else.
    pub fn is_crl(der: &[u8]) -> bool {
        split(der).is_ok_and(|(header, _)| CertificateRevocationList::from_der(&header).is_ok())
    }

    pub const fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }

    pub const fn list(&self) -> &RevocationList {
        &self.list
    }

    /// Frees the memory of the encoding.
    pub fn into_list(self) -> RevocationList {
        self.list
    }

    /// Verifies that an authority signed the CRL. Returns the authority's public key
    /// (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// If the authority did not sign the CRL, or if its key usage lacks cRLSign.
    pub fn signed_by(
        &self,
        authority: &CertificateDer<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<Box<[u8]>, SignatureError> {
        let Ok((_, authority)) = X509Certificate::from_der(authority.as_ref()) else {
            return Err(SignatureError::OtherName);
        };
        let subject = distinguished_name::canonical(authority.subject().as_raw());
        if *self.list.canonical_issuer != *subject {
            return Err(SignatureError::OtherName);
        }
        let spki = authority.public_key().raw;
        signature::verify(&self.der, spki, algorithms)?;
        match authority.key_usage() {
            Ok(None) => Ok(spki.into()),
            Ok(Some(usage)) if usage.value.crl_sign() => Ok(spki.into()),
            _ => Err(SignatureError::NoCrlSign),
        }
    }
}

/// Splits a CRL into an encoded CRL without entries, and the encoded entries.
///
/// # Errors
/// As of [`EncodedList::parse`].
fn split(der: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut outer = Reader(der);
    let (outer_tag, content) = outer.next().ok_or(MALFORMED)?;
    if !outer.0.is_empty() {
        return Err("there are extra bytes after it".to_owned());
    }
    let mut parts = Reader(content);
    let (signed_tag, signed) = parts.next().ok_or(MALFORMED)?;
    let mut header = Vec::new();
    let mut entries: &[u8] = &[];
    let mut fields = Reader(signed);
    let mut has_time = false;
    while !fields.0.is_empty() {
        let start = fields.0;
        let (tag, content) = fields.next().ok_or(MALFORMED)?;
        // The only sequence after `thisUpdate`.
        if has_time && tag == SEQUENCE {
            entries = content;
        } else {
            header.extend_from_slice(&start[..start.len() - fields.0.len()]);
        }
        has_time |= matches!(tag, UTC_TIME | GENERALIZED_TIME);
    }
    let mut content = encode(signed_tag, &header);
    content.extend_from_slice(parts.0);
    Ok((encode(outer_tag, &content), entries))
}

/// The serial numbers of all entries. `None` if an entry is malformed.
fn serials(entries: &[u8]) -> Option<Serials> {
    let mut all = Vec::new();
    let mut entries = Reader(entries);
    while !entries.0.is_empty() {
        let mut entry = Reader(entries.content(SEQUENCE)?);
        let serial = entry.content(INTEGER)?;
        let (date, _) = entry.next()?;
        if serial.is_empty() || !matches!(date, UTC_TIME | GENERALIZED_TIME) {
            return None;
        }
        all.push(without_zeros(serial));
    }
    Some(Serials::new(all))
}
