//! Verification of CRL signatures.

use rustls::pki_types::SignatureVerificationAlgorithm;

use crate::der::Reader;

/// Why a CRL's signature is not accepted as an authority's signature.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignatureError {
    /// The CRL names another issuer.
    OtherName,
    /// The name matches, but another key signed the CRL, or the CRL was modified.
    OtherKey,
    /// The name matches, but the signature algorithm of the CRL is not supported.
    Algorithm(String),
    /// The authority's key usage lacks cRLSign.
    NoCrlSign,
}

/// Verifies the signature of a certificate or CRL with a public key.
pub(super) fn verify(
    der: &[u8],
    spki: &[u8],
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Result<(), SignatureError> {
    let (message, algorithm, signature) = parts(der).ok_or(SignatureError::OtherKey)?;
    let key = body(spki).and_then(|(key, _)| {
        let (key_algorithm, rest) = body(key)?;
        let (bits, _) = body(rest)?;
        Some((key_algorithm, bits.strip_prefix(&[0])?))
    });
    let (key_algorithm, key) = key.ok_or(SignatureError::OtherKey)?;
    let known = algorithms.iter();
    let mut known = known.filter(|known| known.signature_alg_id().as_ref() == algorithm);
    let mut usable = known
        .clone()
        .filter(|known| known.public_key_alg_id().as_ref() == key_algorithm);
    if known.next().is_none() {
        return Err(SignatureError::Algorithm(name(algorithm)));
    }
    let verified = usable.any(|known| known.verify_signature(key, message, signature).is_ok());
    verified.then_some(()).ok_or(SignatureError::OtherKey)
}

/// Splits a certificate or CRL:
/// `SEQUENCE { message, SEQUENCE algorithm, BIT STRING signature }`. Returns the message
/// with its header, and the contents of the algorithm and of the signature.
pub(super) fn parts(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (content, _) = body(der)?;
    let (_, after_message) = body(content)?;
    let message = &content[..content.len() - after_message.len()];
    let (algorithm, after_algorithm) = body(after_message)?;
    let (signature, _) = body(after_algorithm)?;
    // The first byte of a bit string is the number of unused bits.
    Some((message, algorithm, signature.strip_prefix(&[0])?))
}

/// Returns the content of the first DER element and the bytes after the element.
fn body(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader(der);
    let (_tag, content) = reader.next()?;
    Some((content, reader.0))
}

/// The name of a signature algorithm for messages. `identifier` is the content of an
/// AlgorithmIdentifier, which begins with an OID.
fn name(identifier: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 9] = [
        (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x02", "MD2"),
        (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", "MD5"),
        (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", "SHA-1"),
        (b"\x2a\x86\x48\xce\x3d\x04\x01", "SHA-1"),
        (b"\x2a\x86\x48\xce\x38\x04\x03", "DSA and SHA-1"),
        (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0e", "SHA-224"),
        (b"\x2a\x86\x48\xce\x3d\x04\x03\x01", "SHA-224"),
        (
            b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a",
            "unusual RSA-PSS parameters",
        ),
        (b"\x2b\x65\x71", "Ed448"),
    ];
    let oid = body(identifier).map_or(&[][..], |(oid, _)| oid);
    if let Some((_, name)) = KNOWN.iter().find(|(known, _)| *known == oid) {
        return (*name).to_owned();
    }
    let dotted = x509_parser::der_parser::Oid::new(oid.into()).to_id_string();
    format!("the algorithm {dotted}")
}
