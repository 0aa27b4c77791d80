//! The lines that set the keys of an upstream.

use super::super::{super::model::Place, lexer::Line, sections::Proxy};

/// Returns the lines of a section that set keys of its upstream, and those with the timeouts
/// `server` and `tunnel`.
pub(super) fn origins(proxy: &Proxy) -> Vec<(&'static str, Place)> {
    let mut origins: Vec<(&'static str, Place)> = Vec::new();
    // The last line decides.
    for line in proxy.lines.iter().rev() {
        add(&mut origins, line, directive(line));
    }
    // All servers have the settings of the first one.
    for line in &proxy.lines {
        if matches!(line.word(0), "server" | "server-template") {
            add(&mut origins, line, &options(line, 3));
        }
    }
    for line in proxy.lines.iter().rev() {
        if line.word(0) == "default-server" {
            add(&mut origins, line, &options(line, 1));
        }
    }
    origins
}

/// Adds keys that have no line yet.
fn add(origins: &mut Vec<(&'static str, Place)>, line: &Line, keys: &[&'static str]) {
    for key in keys {
        if !origins.iter().any(|(known, _)| known == key) {
            origins.push((key, line.place.clone()));
        }
    }
}

fn directive(line: &Line) -> &'static [&'static str] {
    match (line.word(0), line.word(1)) {
        ("balance", _) => &["balance"],
        ("retries", _) => &["retries"],
        ("srvtcpka-idle", _) => &["keepalive"],
        ("timeout", "connect") => &["connect_timeout"],
        ("timeout", "check") => &["health_check.timeout", "agent_check.timeout"],
        ("timeout", "queue") => &["queue.timeout"],
        ("timeout", "server") => &["server"],
        ("timeout", "tunnel") => &["tunnel"],
        ("option", "httpchk") => &["health_check.type", "health_check.path"],
        ("option", "smtpchk" | "ssl-hello-chk") => &["health_check.type"],
        ("option", name) if name.ends_with("-check") => &["health_check.type", "health_check.user"],
        ("http-check", "send") => &["health_check.path"],
        ("http-check", "expect") => &["health_check.status"],
        ("tcp-check", "connect") => &["health_check.port"],
        ("tcp-check", "expect") => &["health_check.expect"],
        ("tcp-check", _) => &["health_check.send"],
        _ => &[],
    }
}

/// Returns the keys that the options of a server set. The options start at word `from`.
fn options(line: &Line, from: usize) -> Vec<&'static str> {
    let words = line.words.iter().skip(from);
    let keys = words.flat_map(|word| -> &[&'static str] {
        match word.as_str() {
            "check" => &["health_check.type"],
            "inter" => &["health_check.interval", "health_check.timeout"],
            "rise" => &["health_check.rise"],
            "fall" => &["health_check.fall"],
            "port" => &["health_check.port"],
            "slowstart" => &["slow_start"],
            "observe" | "error-limit" => &["passive.max_fails"],
            "maxconn" => &["queue.size", "queue.timeout"],
            "maxqueue" => &["queue.size"],
            "agent-check" => &["agent_check.interval", "agent_check.timeout"],
            "agent-port" => &["agent_check.port"],
            "agent-inter" => &["agent_check.interval", "agent_check.timeout"],
            "agent-send" => &["agent_check.send"],
            _ => &[],
        }
    });
    keys.copied().collect()
}
