//! Keys of shared objects. They contain neither a configuration version nor a rule name, so
//! that members with different configurations share the same objects.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

use crate::secret::Secret;

/// A client: the first 16 bytes of HMAC-SHA-256(secret, identity). The store does not learn the
/// identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub [u8; 16]);

impl ClientKey {
    /// `identity` as in logs: `cn:web1`.
    pub fn new(secret: &Secret, identity: &str) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&secret.client_id(identity)[..16]);
        Self(key)
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A server: the first 8 bytes of SHA-256(upstream ‖ 0 ‖ server), big endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey(pub u64);

impl ServerKey {
    pub fn new(upstream: &str, server: &str) -> Self {
        let name = [upstream.as_bytes(), &[0], server.as_bytes()].concat();
        let mut key = [0; 8];
        key.copy_from_slice(&digest(&SHA256, &name).as_ref()[..8]);
        Self(u64::from_be_bytes(key))
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_keys_depend_on_secret_and_identity() {
        let secret = Secret::new(b"one secret of the fleet");
        let other = Secret::new(b"another secret of a fleet");
        let key = ClientKey::new(&secret, "cn:web1");
        assert_eq!(key, ClientKey::new(&secret, "cn:web1"));
        assert_ne!(key, ClientKey::new(&secret, "cn:web2"));
        assert_ne!(key, ClientKey::new(&other, "cn:web1"));
    }

    // Computed with OpenSSL: all members must derive the same keys, in all versions.
    #[test]
    fn keys_are_stable() {
        let secret = Secret::new(b"secret");
        let client = ClientKey::new(&secret, "cn:web1");
        assert_eq!(client.to_string(), "d5be7b2f9291d2cc9800f26cea014609");
        assert_eq!(
            ServerKey::new("web", "web1").to_string(),
            "b5f967ae7bacc1ef"
        );
    }

    #[test]
    fn the_separator_prevents_equal_server_keys() {
        assert_ne!(ServerKey::new("ab", "c"), ServerKey::new("a", "bc"));
    }
}
