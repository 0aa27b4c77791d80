//! Public keys that handshakes and signature checks accept.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ED25519,
    ParsedPublicKey, VerificationAlgorithm,
};
use x509_parser::{der_parser::asn1_rs::Tag, public_key::PublicKey, x509::SubjectPublicKeyInfo};

/// Accepted sizes of an RSA modulus in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The accepted types of keys, for messages.
pub const ACCEPTED: &str =
    "RSA with 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, and Ed25519";

/// Describes the key if it is not accepted in handshakes and signature checks.
pub fn unsupported(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let oid = key.algorithm.algorithm.to_id_string();
    let parameters = key.algorithm.parameters.as_ref();
    let bits = &*key.subject_public_key.data;
    match &*oid {
        "1.2.840.113549.1.1.1" => {
            if !parameters.is_some_and(|any| any.tag() == Tag::Null) {
                return Some("an RSA key without the NULL parameter that RFC 3279 requires".into());
            }
            match key.parsed() {
                Ok(PublicKey::RSA(rsa)) => {
                    let bits = bit_length(rsa.modulus);
                    (!RSA_BITS.contains(&bits)).then(|| format!("an RSA key of {bits} bits"))
                }
                _ => Some("an RSA key that cannot be read".into()),
            }
        }
        "1.2.840.10045.2.1" => {
            let curve = match parameters {
                Some(any) if any.tag() == Tag::Oid => any.as_oid().ok()?.to_id_string(),
                Some(any) if any.tag() == Tag::Sequence => {
                    return Some("an ECDSA key with explicit curve parameters".into());
                }
                _ => return Some("an ECDSA key without a curve".into()),
            };
            let algorithm: &'static dyn VerificationAlgorithm = match &*curve {
                "1.2.840.10045.3.1.7" => &ECDSA_P256_SHA256_ASN1,
                "1.3.132.0.34" => &ECDSA_P384_SHA384_ASN1,
                "1.3.132.0.35" => &ECDSA_P521_SHA512_ASN1,
                other => return Some(format!("an ECDSA key on the curve {}", curve_name(other))),
            };
            is_rejected(algorithm, bits).then(|| "an ECDSA key whose point is not valid".into())
        }
        "1.3.101.112" => match parameters {
            None => is_rejected(&ED25519, bits).then(|| "an Ed25519 key that is not valid".into()),
            Some(_) => Some("an Ed25519 key with parameters".into()),
        },
        "1.2.840.113549.1.1.10" => Some("an RSA-PSS key".into()),
        "1.3.101.113" => Some("an Ed448 key".into()),
        "1.3.101.110" | "1.3.101.111" => Some("a key for key agreement".into()),
        "1.2.840.10040.4.1" => Some("a DSA key".into()),
        other => Some(format!("a key of the algorithm {other}")),
    }
}

fn is_rejected(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> bool {
    ParsedPublicKey::new(algorithm, key).is_err()
}

fn bit_length(integer: &[u8]) -> usize {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    let significant = &integer[zeros..];
    let leading = significant.first().map_or(0, |byte| byte.leading_zeros());
    significant.len() * 8 - leading as usize
}

fn curve_name(oid: &str) -> &str {
    match oid {
        "1.3.132.0.33" => "P-224",
        "1.2.840.10045.3.1.1" => "P-192",
        "1.3.132.0.10" => "secp256k1",
        "1.3.36.3.3.2.8.1.1.7" => "brainpoolP256r1",
        "1.3.36.3.3.2.8.1.1.11" => "brainpoolP384r1",
        "1.3.36.3.3.2.8.1.1.13" => "brainpoolP512r1",
        "1.2.156.10197.1.301" => "SM2",
        other => other,
    }
}
