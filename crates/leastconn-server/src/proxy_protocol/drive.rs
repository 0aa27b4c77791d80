//! What must hold for whatever bytes come: for the fuzz target and the property tests.

use super::{Header, Version, parse};

/// Parses `data` as a whole and cut off everywhere, and writes again what it says.
pub(super) fn drive(data: &[u8]) {
    let whole = parse(data);
    // What is known of a part does not change with what comes after it.
    for cut in 0..data.len() {
        match parse(&data[..cut]) {
            Ok(None) => {}
            Ok(Some((length, _))) => assert!(length <= cut, "bytes that had not come"),
            Err(_) => assert!(whole.is_err(), "an error at {cut} that went away"),
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
        let written = version.proxied(ends, None);
        assert_eq!(parse(&written), Ok(Some((written.len(), header))));
    }
}
