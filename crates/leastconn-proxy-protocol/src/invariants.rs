//! Invariants of [`parse`] that hold for any input. The fuzz target and the property tests check
//! them.

use super::{Header, Version, parse};

/// Parses every prefix of `data` and re-encodes each decoded header.
///
/// # Panics
/// If an invariant is violated.
#[cfg_attr(
    test,
    expect(unreachable_pub, reason = "the fuzz target uses this function")
)]
pub fn check_invariants(data: &[u8]) {
    let whole = parse(data);
    // Bytes after a complete or invalid header do not change the result.
    for cut in 0..data.len() {
        match parse(&data[..cut]) {
            Ok(None) => {}
            Ok(Some((length, _))) => assert!(length <= cut, "header longer than the input"),
            Err(_) => assert!(whole.is_err(), "error at {cut} but not for the whole input"),
        }
    }
    let Ok(Some((length, header))) = whole else {
        return;
    };
    assert!((1..=data.len()).contains(&length));
    for cut in 0..data.len() {
        let expected = (cut >= length).then_some((length, header));
        assert_eq!(parse(&data[..cut]), Ok(expected), "at {cut} of {length}");
    }
    let Header::Proxied(ends) = header else {
        return;
    };
    for version in [Version::V1, Version::V2, Version::V2Tls, Version::V2TlsFull] {
        let written = version.encode_proxied(ends, None);
        assert_eq!(parse(&written), Ok(Some((written.len(), header))));
    }
}
