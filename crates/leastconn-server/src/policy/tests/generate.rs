//! Random rules and clients.

use super::*;

const NAMES: [&str; 7] = ["a.x", "b.x", "a.y", "a.b.x", "x", "*.x", "a."];
pub(super) const PATTERNS: [&str; 7] = ["a.x", "b.x", "a.y", "x", "*.x", "a.*", "*.*.x"];
const URIS: [&str; 14] = [
    "spiffe://t/a",
    "spiffe://t/b",
    "spiffe://t/a/b",
    "spiffe://t",
    "urn:x",
    "https://t/a",
    "https://t/a/b",
    "https://T/a",
    "https://t/a/b?c",
    "https://t/a//b",
    "https://t/a/..",
    "https://t/a%2Fb",
    "https://t/*",
    "https://t/**",
];
const URI_PATTERNS: [&str; 13] = [
    "spiffe://t/a",
    "spiffe://t/*",
    "spiffe://t/**",
    "spiffe://t/a/**",
    "spiffe://t",
    "urn:x",
    "https://t/*",
    "https://t/**",
    "https://t/*/b",
    "https://t/a/**",
    "https://t/a",
    "https://t/a/..",
    "https://t/a/b?c",
];
const TEXTS: [&str; 3] = ["one", "two", "a.x"];
const KEYS: [&str; 2] = [
    "0000000000000000000000000000000000000000000000000000000000000001",
    "0000000000000000000000000000000000000000000000000000000000000002",
];
pub(super) const NETS: [&str; 11] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.2/31",
    "10.1.2.3",
    "::ffff:10.1.0.0/112",
    "::ffff:192.0.2.1",
    "::/0",
    "::/64",
    "2001:db8::/32",
    "2001:db8::1",
];
const SOURCES: [&str; 8] = [
    "10.1.2.3",
    "::ffff:10.1.2.3",
    "10.1.9.9",
    "192.0.2.1",
    "::ffff:192.0.2.1",
    "2001:db8::1",
    "2001:db9::1",
    "::10.1.2.3",
];

fn some_of(all: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(all), 0..3)
}

/// Yields an empty list in three of four cases.
fn few_of(all: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![3 => Just(Vec::new()), 1 => some_of(all)]
}

prop_compose! {
    pub(super) fn rule()(
        cn in few_of(&PATTERNS),
        dns in few_of(&PATTERNS),
        uri in few_of(&URI_PATTERNS),
        spki in few_of(&KEYS),
        ou in few_of(&TEXTS),
        issuer_cn in few_of(&TEXTS),
        source in few_of(&NETS),
        expires in prop::option::weighted(0.3, 0_i64..6),
        shadow in prop::bool::weighted(0.2),
    ) -> RuleText {
        let mut rule = RuleText { cn, dns, uri, spki, ou, issuer_cn, source, expires, ..RuleText::default() };
        rule.mode = if shadow { Mode::Shadow } else { Mode::Enforce };
        let names = [&rule.cn, &rule.dns, &rule.uri, &rule.spki, &rule.ou, &rule.issuer_cn];
        // The configuration rejects rules without any key.
        if names.iter().all(|list| list.is_empty()) && rule.source.is_empty() {
            rule.source = vec!["10.0.0.0/8"];
        }
        rule
    }
}

prop_compose! {
    fn certificate()(
        cn in prop::option::of(prop::sample::select(&NAMES[..])),
        dns in some_of(&NAMES),
        uri in some_of(&URIS),
        spki in prop::sample::select(&KEYS[..]),
        ou in some_of(&TEXTS),
        issuer_cn in prop::option::of(prop::sample::select(&TEXTS[..])),
    ) -> Certificate {
        Certificate {
            cn: cn.map(str::to_owned),
            dns: owned(&dns),
            uri: owned(&uri),
            spki: spki.to_owned(),
            ou: owned(&ou),
            issuer_cn: issuer_cn.map(str::to_owned),
            ..Certificate::default()
        }
    }
}

prop_compose! {
    pub(super) fn any_input()(
        certificate in prop::option::of(certificate()),
        source in prop::sample::select(&SOURCES[..]),
    ) -> RuleInput<'static> {
        let input = input_with(Certificate::default(), source);
        RuleInput { certificate: certificate.map(|certificate| &*Box::leak(Box::new(certificate))), ..input }
    }
}
