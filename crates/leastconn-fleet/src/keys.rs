//! Keys of shared objects. They contain neither a configuration version nor a rule name, so
//! that members with different configurations share the same objects.

/// A client: the first 16 bytes of HMAC-SHA-256(`secret`, identity).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub [u8; 16]);

/// A server: the first 8 bytes of SHA-256(upstream ‖ 0 ‖ server), big endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey(pub u64);
