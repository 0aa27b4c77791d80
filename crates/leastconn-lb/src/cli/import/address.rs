//! Addresses in the notations of the source programs.

use std::net::IpAddr;

use super::toml::{VARIABLE_END, VARIABLE_START};

/// Maximum number of ports in a range.
const LARGEST_RANGE: u32 = 256;

/// Whether a host is an IP address, with or without brackets.
pub(crate) fn is_ip(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok()
}

/// Whether a host is an IP address, or a host name of letters, digits, `-`, `_` and `.`.
pub(crate) fn is_host(host: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut labels = host.trim_end_matches('.').split('.');
    let is_name = host.chars().all(is_allowed) && host.len() <= 253;
    is_ip(host) || (is_name && labels.all(|label| (1..=63).contains(&label.len())))
}

/// Splits an address at its last colon outside of environment variables, whose defaults can contain
/// colons.
pub(crate) fn split_port(text: &str) -> Option<(&str, &str)> {
    let mut is_variable = false;
    let mut last = None;
    for (at, c) in text.char_indices() {
        match c {
            VARIABLE_START => is_variable = true,
            VARIABLE_END => is_variable = false,
            ':' if !is_variable => last = Some(at),
            _ => {}
        }
    }
    last.map(|at| (&text[..at], &text[at + 1..]))
}

/// Whether a text is one environment variable.
pub(crate) fn is_variable(text: &str) -> bool {
    text.starts_with(VARIABLE_START)
        && text.ends_with(VARIABLE_END)
        && text.matches(VARIABLE_START).count() == 1
}

/// Adds the brackets that an IPv6 address needs before a port.
pub(crate) fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// Returns one address for each port of `FIRST-LAST`. Returns `None` if `range` is not a range of
/// ports or is too large.
pub(crate) fn with_ports(host: &str, range: &str) -> Option<Vec<String>> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
    let ports = first..=last;
    (first <= last && last <= u32::from(u16::MAX) && last - first < LARGEST_RANGE)
        .then(|| ports.map(|port| format!("{host}:{port}")).collect())
}
