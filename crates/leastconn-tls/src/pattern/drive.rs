//! Properties of patterns, for the fuzz target and a property test.

use super::{CnPattern, DnsPattern, ExactText, Spki, UriPattern, plain};
use crate::spiffe;

/// Parses `wide` and `narrow` as each type of pattern. Checks that the patterns match `name`
/// consistently.
pub(crate) fn drive(wide: &str, narrow: &str, name: &str) {
    macro_rules! check_pattern {
        ($pattern:ty, $wildcard_accepts:expr) => {
            if let Ok(wide) = <$pattern>::parse(wide) {
                let (matches, wildcard) = (wide.matches(name), wide.is_wildcard());
                assert!(
                    !(matches && wildcard) || $wildcard_accepts(name),
                    "{wide} {name:?}"
                );
                assert!(
                    matches || wildcard || wide.as_str() != name,
                    "{wide} {name:?}"
                );
                assert!(wide.covers(&wide), "{wide}");
                if let Ok(narrow) = <$pattern>::parse(narrow)
                    && wide.covers(&narrow)
                {
                    assert!(matches || !narrow.matches(name), "{wide} {narrow} {name:?}");
                }
            }
        };
    }
    let no_wildcard = |name: &str| !name.contains('*');
    check_pattern!(CnPattern, no_wildcard);
    check_pattern!(DnsPattern, no_wildcard);
    check_pattern!(UriPattern, |name: &str| {
        let clear = spiffe::check(name).is_ok() || plain::check(name).is_ok();
        clear && !name.contains('*')
    });
    if let Ok(text) = ExactText::parse(wide) {
        assert_eq!(text.as_str(), wide);
    }
    if let Ok(key) = Spki::parse(wide) {
        assert_eq!(Spki::parse(key.as_str()).as_ref(), Ok(&key));
    }
    if spiffe::check(wide).is_ok() {
        assert!(UriPattern::parse(wide).is_ok_and(|pattern| pattern.matches(wide)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(
            &[
                "spiffe://",
                "https://",
                "td",
                "a",
                "B",
                "/",
                "*",
                "**",
                ".",
                "..",
                "%",
                "%20",
                "?",
                ":",
                " ",
                "\0",
                "é",
            ][..],
        );
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn patterns_match_consistently(wide in text(), narrow in text(), name in text()) {
            super::drive(&wide, &narrow, &name);
            super::drive(&wide, &wide, &wide);
        }
    }
}
