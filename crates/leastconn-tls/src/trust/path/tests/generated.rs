//! Generated chains that combine several properties.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::trust::ChainErrorKind;

prop_compose! {
    fn case()(
        spelling in prop::sample::select(&Spelling::ALL[..]),
        has_policies: bool,
        has_unknown in prop::bool::weighted(0.15),
        usage in prop::option::of(prop::bool::weighted(0.7)),
        purpose in prop::option::of(prop::bool::weighted(0.8)),
        constrained in prop::option::weighted(0.4, prop::bool::weighted(0.7)),
        anchor_purpose in prop::option::weighted(0.3, prop::bool::weighted(0.7)),
        is_expired in prop::bool::weighted(0.1),
    ) -> (Chain, Option<ChainErrorKind>) {
        let mut leaf = client("c1");
        leaf.key_usages = match usage {
            None => Vec::new(),
            Some(true) => vec![KeyUsagePurpose::DigitalSignature],
            Some(false) => vec![KeyUsagePurpose::KeyEncipherment],
        };
        leaf.extended_key_usages = match purpose {
            None => Vec::new(),
            Some(true) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Some(false) => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        if has_policies {
            leaf.custom_extensions.push(policies());
        }
        if has_unknown {
            leaf.custom_extensions.push(critical(&[1, 2, 3, 4], b"\x05\x00"));
        }
        if is_expired {
            let end = Timestamp::now() - SignedDuration::from_hours(24);
            let year = i32::from(end.to_string()[..4].parse::<i16>().unwrap());
            leaf.not_after = date_time_ymd(year - 1, 1, 1);
        }
        let mut root = match constrained {
            None => root(),
            Some(is_met) => {
                let name = if is_met { "c1" } else { "c2" };
                let mut base = DistinguishedName::new();
                base.push(DnType::CommonName, name);
                limited(vec![GeneralSubtree::DirectoryName(base)], vec![])
            }
        };
        if let Some(is_met) = anchor_purpose {
            root.extended_key_usages = vec![if is_met {
                ExtendedKeyUsagePurpose::ClientAuth
            } else {
                ExtendedKeyUsagePurpose::ServerAuth
            }];
        }
        let is_trusted = spelling != Spelling::OtherName
            && !has_unknown
            && usage != Some(false)
            && purpose != Some(false)
            && constrained != Some(false)
            && anchor_purpose != Some(false);
        let expected = match (is_trusted, is_expired) {
            (true, false) => None,
            (true, true) => Some(ChainErrorKind::Expired),
            (false, _) => Some(ChainErrorKind::Untrusted),
        };
        (Chain::new(root, leaf, spelling), expected)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The verifier and a TLS handshake both return the result that RFC 5280 requires.
    #[test]
    fn results_agree_for_generated_chains((chain, expected) in case()) {
        let result = chain.verify().err().map(|error| error.kind());
        // If a chain has several errors, any of them can be reported.
        if expected != Some(ChainErrorKind::Untrusted) {
            prop_assert_eq!(result, expected);
        }
        prop_assert_eq!(result.is_none(), expected.is_none());
        prop_assert_eq!(chain.handshake(), result.is_none());
    }
}
