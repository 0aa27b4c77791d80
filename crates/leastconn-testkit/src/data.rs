//! Test data: a byte pattern without short periods, and digests.

/// Returns the byte of the pattern at `offset`. The byte is a multiplicative hash of the
/// offset, so that tests detect lost, repeated and reordered pieces.
fn pattern_byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// `length` bytes of the pattern, starting at `offset`.
pub fn pattern(offset: u64, length: usize) -> Vec<u8> {
    (offset..).take(length).map(pattern_byte).collect()
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Incremental SHA-256.
#[derive(Clone)]
pub struct Sha256(aws_lc_rs::digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
}

impl Sha256 {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest, in hexadecimal.
    pub fn finish_hex(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_is_continuous_and_digest_is_correct() {
        assert_eq!(
            [pattern(0, 300), pattern(300, 700)].concat(),
            pattern(0, 1000)
        );
        assert_ne!(pattern(0, 256), pattern(256, 256));
        let mut pieces = Sha256::default();
        pieces.update(b"ab");
        pieces.update(b"c");
        assert_eq!(pieces.finish_hex(), sha256_hex(b"abc"));
        assert!(sha256_hex(b"abc").starts_with("ba7816bf"));
    }
}
