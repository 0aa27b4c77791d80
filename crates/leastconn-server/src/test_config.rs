//! Configurations for unit tests.

/// A listener without TLS that all IPv4 clients may use.
pub(crate) const PLAIN: &str = r#"
[log]
access = "off"
[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"
[[upstream]]
name = "web"
health_check = { type = "none" }
servers = ["127.0.0.1:1"]
[[client]]
name = "all"
match = { source = "0.0.0.0/0" }
allow = "web"
"#;
