//! The secret of a fleet.

use std::fmt;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};

/// The secret that all members of a fleet share. It hides the identities of clients from the
/// store, and authenticates what operators set.
#[derive(Clone)]
pub struct Secret {
    clients: Key,
    signatures: Key,
}

impl Secret {
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        let clients = Key::new(HMAC_SHA256, secret.as_ref());
        // A key of its own, so that no identity can be a signed text.
        let derived = sign(&clients, b"\0leastconn fleet signatures");
        Self {
            signatures: Key::new(HMAC_SHA256, derived.as_ref()),
            clients,
        }
    }

    pub(crate) fn client_id(&self, identity: &str) -> [u8; 32] {
        tag(&self.clients, identity.as_bytes())
    }

    /// The signature of `parts`, in hexadecimal.
    pub(crate) fn sign(&self, parts: &[&str]) -> String {
        hex(&tag(&self.signatures, &framed(parts)))
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, parts: &[&str], signature: &str) -> bool {
        parse_hex(signature)
            .is_some_and(|tag| verify(&self.signatures, &framed(parts), &tag).is_ok())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tag(key: &Key, text: &[u8]) -> [u8; 32] {
    let mut tag = [0; 32];
    tag.copy_from_slice(sign(key, text).as_ref());
    tag
}

/// Each part with its length, so that different parts never have the same bytes.
fn framed(parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|value| value as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_parts_verify() {
        let secret = Secret::new("fleet secret");
        let signature = secret.sign(&["edge", "state/web/web1", "drain"]);
        assert!(secret.verify(&["edge", "state/web/web1", "drain"], &signature));
        assert!(!secret.verify(&["edge", "state/web/web1", "maint"], &signature));
        assert!(!secret.verify(&["edge", "state/web/web1d", "rain"], &signature));
        assert!(!secret.verify(&["edge", "state/web/web1", "drain"], &signature[2..]));
        assert!(!secret.verify(&["edge", "state/web/web1", "drain"], "é"));
        let other = Secret::new("another secret");
        assert!(!other.verify(&["edge", "state/web/web1", "drain"], &signature));
    }

    #[test]
    fn debug_output_hides_the_secret() {
        assert_eq!(format!("{:?}", Secret::new("x")), "Secret(..)");
    }
}
