//! Diagnostics about `[[client]]` tables and source limits.

use super::check_all;

#[test]
fn client_problems_are_described() {
    check_all(&[
        (
            "{ source = \"10.0.0.0/8\" }",
            "{}",
            "error: `match` is empty: it would match all clients",
        ),
        (
            "\"10.0.0.0/8\"",
            "[]",
            "error: `source` is an empty list: it would match no client",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "dns = \"web*.lb.com\"",
            "error: `dns`: `*` matches one whole label",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "cn = \"**\"",
            "error: `cn`: `*` matches one whole label",
        ),
        (
            "[\"web\"]",
            "[]",
            "warning: `allow` is empty: the client will be refused everywhere",
        ),
        (
            "[\"web\"]",
            "[\"web/10.0.0.9:80\"]",
            "error: the upstream `web` has no server named `10.0.0.9:80`; did you mean",
        ),
        (
            "[\"web\"]",
            "[\"zzz\"]",
            "error: there is no upstream named `zzz`; the upstreams are `web`",
        ),
        (
            "allow =",
            "rate_limit = { rate = 0 }\nallow =",
            "error: `rate` cannot be 0",
        ),
        (
            "allow =",
            "rate_limit = { rate = nan }\nallow =",
            "error: `rate` cannot be NaN",
        ),
        (
            "allow =",
            "rate_limit = { rate = 5, burst = 0 }\nallow =",
            "error: `burst` must be at least 1, not 0",
        ),
        (
            "allow =",
            "rate_limit = { burst = 5 }\nallow =",
            "error: `client.rate_limit` needs `rate`",
        ),
        (
            "bind =",
            "source_rate_limit = { rate = 0 }\nbind =",
            "error: `rate` cannot be 0",
        ),
        (
            "bind =",
            "source_rate_limit = { burst = 5 }\nbind =",
            "error: `listener.source_rate_limit` needs `rate`",
        ),
        (
            "bind =",
            "source_rate_limit = { rate = 5, prefix_v4 = 33 }\nbind =",
            "error: `prefix_v4` must be from 1 to 32, not 33",
        ),
        (
            "bind =",
            "source_rate_limit = { rate = 5, prefix_v6 = 0 }\nbind =",
            "error: `prefix_v6` must be from 1 to 128, not 0",
        ),
        (
            "allow =",
            "max_conns = 0\nallow =",
            "error: `max_conns` must be at least 1, not 0",
        ),
        // Match
        (
            "source = \"10.0.0.0/8\"",
            "uri = \"spiffe://td/web*\"",
            "error: `uri`: `*` matches one whole segment of a URI's path and `**` at its end",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "uri = \"https://*.example.org/web\"",
            "error: `uri`: `*` matches one whole segment of a URI's path and `**` at its end",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "uri = \"urn:example:*\"",
            "error: `uri`: `*` matches a segment of a path: the URI must begin like",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "uri = \"https://example.org/*?role=web\"",
            "error: `uri`: `*` matches one whole segment",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "uri = \"https://example.org/a%2Fb/*\"",
            "error: `uri`: with a `*`, a URI can use percent-encoding only for characters that need it",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "uri = \"spiffe://Example.org/web\"",
            "error: `uri`: a SPIFFE trust domain has lower-case letters",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "uri = \"example.org/web\"",
            "error: `uri`: a URI begins with its scheme",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "ou = [\"staff\", \"eng*\"]",
            "error: `ou`: `*` is not a wildcard here",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "issuer_cn = \"\"",
            "error: `issuer_cn`: it is empty",
        ),
        (
            "source = \"10.0.0.0/8\"",
            "spki = \"abc\"",
            "error: `spki`: the SHA-256 of a public key is 64 hexadecimal digits: `openssl x509",
        ),
        // Expiry
        (
            "allow =",
            "expires = 2027-01-31T00:00:00\nallow =",
            "error: `expires`: 2027-01-31T00:00:00 has no offset from UTC, so it is not a definite time; \
             write `2027-01-31T00:00:00Z`, or an offset such as `+02:00` instead of `Z`",
        ),
        (
            "allow =",
            "expires = 2027-01-31\nallow =",
            "error: `expires`: 2027-01-31 has no offset from UTC, so it is not a definite time; \
             write `2027-01-31T00:00:00Z`",
        ),
        (
            "allow =",
            "expires = 07:32:00\nallow =",
            "error: `expires`: 07:32:00 has no offset from UTC",
        ),
        (
            "allow =",
            "expires = \"2027-01-31T00:00:00Z\"\nallow =",
            "14:11: error: expected a date and time without quotes, like 2027-01-31T00:00:00Z",
        ),
        (
            "allow =",
            "expires = 2026-06-15T14:00:00+02:00\nallow =",
            "warning: the rule expired at 2026-06-15T12:00:00Z: it matches no client",
        ),
        (
            "allow =",
            "mode = \"shado\"\nallow =",
            "error: `mode` cannot be \"shado\"",
        ),
    ]);
}
