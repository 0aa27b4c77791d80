//! Invariants of parsing a CRL, for property tests and fuzzing, with rustls-webpki as the model.

use super::EncodedList;

/// Parses arbitrary bytes. If rustls-webpki accepts the CRL too, both must list the same serial
/// numbers.
pub(crate) fn drive(der: &[u8]) {
    let Ok(encoded) = EncodedList::parse(der.to_vec().into()) else {
        return;
    };
    assert_eq!(encoded.der().as_ref(), der);
    let list = encoded.list();
    assert!(!list.is_older_than(list), "older than itself");
    assert!(!list.describe().is_empty() && !list.issuer.is_empty());
    for serial in list.serials() {
        assert!(serial.first() != Some(&0), "a leading zero");
        assert!(
            list.lists_serial(serial),
            "the CRL does not list {serial:?}"
        );
    }
    let Ok(model) = webpki::BorrowedCertRevocationList::from_der(der) else {
        return;
    };
    let Ok(entries) = model.into_iter().collect::<Result<Vec<_>, _>>() else {
        return;
    };
    for entry in &entries {
        assert!(list.lists_serial(entry.serial_number), "a missing entry");
    }
    assert!(list.serials().count() <= entries.len(), "an added entry");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEEDS: [&[u8]; 2] = [
        include_bytes!("../../../../fuzz/seeds/crl/00"),
        include_bytes!("../../../../fuzz/seeds/crl/01"),
    ];

    proptest! {
        #[test]
        fn modified_list_agrees_with_webpki(
            seed in 0..SEEDS.len(), at in any::<prop::sample::Index>(), flip in any::<u8>()
        ) {
            let mut der = SEEDS[seed].to_vec();
            let at = at.index(der.len());
            der[at] ^= flip;
            drive(&der);
        }
    }
}
