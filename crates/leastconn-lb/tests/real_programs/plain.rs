//! A configuration without TLS.

/// The table of an admin address on a free port.
pub(crate) const ADMIN: &str = "[admin]\nbind = \"127.0.0.1:0\"\n";

/// A configuration with one listener `main` in front of the upstream `web`, for all local clients.
/// `tables` come first. `upstream` has the keys of the upstream, with its `servers`.
pub(crate) fn configuration(tables: &str, upstream: &str) -> String {
    format!(
        r#"{tables}
[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"

[[upstream]]
name = "web"
{upstream}

[[client]]
name = "local"
match = {{ source = "127.0.0.0/8" }}
allow = ["web"]
"#
    )
}
