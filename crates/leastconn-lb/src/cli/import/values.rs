//! Values of `match` and `sni` that the configuration accepts.

use leastconn_config::{CnPattern, DnsPattern, ExactText, UriPattern};

use super::{access::Key, toml::VARIABLE_START};

/// Whether a value can be written. A value with a variable is only known when the balancer starts.
pub(crate) fn is_accepted(key: Key, value: &str) -> bool {
    if value.contains(VARIABLE_START) {
        return true;
    }
    match key {
        Key::Cn => CnPattern::parse(value).is_ok(),
        Key::Dns | Key::Sni => DnsPattern::parse(value).is_ok(),
        Key::Uri => UriPattern::parse(value).is_ok(),
        Key::Ou | Key::IssuerCn => ExactText::parse(value).is_ok(),
        Key::Spki | Key::Source => true,
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, is_accepted};

    #[test]
    fn invalid_values_are_found() {
        for (key, value, expected) in [
            (Key::Cn, "", false),
            (Key::Cn, "a b", true),
            (Key::Sni, "*.a.x=", false),
            (Key::Sni, "*.a.x", true),
            (Key::Sni, "\u{1}NAME\u{2}.x", true),
            (Key::Ou, "a\nb", false),
            (Key::Uri, "spiffe://td//x", false),
            (Key::Uri, "spiffe://td/*", true),
        ] {
            assert_eq!(is_accepted(key, value), expected, "{value:?}");
        }
    }
}
