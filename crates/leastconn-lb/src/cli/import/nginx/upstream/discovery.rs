//! Servers with `resolve`: their addresses are looked up in DNS while the balancer runs.

use super::{
    super::super::{
        address::is_ip,
        model::{ServerLine, Table, Value},
        units,
    },
    Directive, Settings,
};

/// Returns the key and the value of a discovered server. `None` if the line has no `resolve`, or if
/// its address is not a host name.
pub(super) fn source(line: &Directive) -> Option<(&'static str, String)> {
    let options = line.arguments().get(1..)?;
    let text = line.word(1);
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if !options.iter().any(|option| option == "resolve") || is_ip(host) || host.is_empty() {
        return None;
    }
    let service = options
        .iter()
        .find_map(|option| option.strip_prefix("service="));
    match service {
        // A service with a dot is already a part of the name.
        Some(service) if service.contains('.') => Some(("srv", format!("{service}.{host}"))),
        Some(service) => Some(("srv", format!("_{service}._tcp.{host}"))),
        None => {
            let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
            is_port.then(|| ("dns", text.to_owned()))
        }
    }
}

/// Translates `resolver` if an upstream has discovered servers.
pub(super) fn discovery(
    block: &Directive,
    settings: Settings<'_>,
    table: &mut Table,
    servers: &[ServerLine],
) {
    if !servers.iter().any(ServerLine::is_discovered) {
        return;
    }
    let find = |name: &str| {
        let mut lines = block.children().iter();
        let own = lines.find(|line| line.name() == name);
        own.or_else(|| settings.one(name))
    };
    if let Some(line) = find("resolver_timeout") {
        table.note(line.place.left_out("has no equivalent"));
    }
    // nginx starts even if a name cannot be resolved.
    let mut keys = vec![("start", Value::text("empty"))];
    let Some(line) = find("resolver") else {
        table.set("discovery", Value::Table(keys));
        return;
    };
    let mut name_servers = Vec::new();
    for word in line.arguments() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match (name, value) {
            ("valid", value) => {
                if let Some(ms) = units::milliseconds(value, 1000) {
                    keys.push(("refresh", units::duration(ms.max(1_000))));
                }
            }
            ("ipv6", "off") => keys.push(("family", Value::text("v4"))),
            ("ipv4", "off") => keys.push(("family", Value::text("v6"))),
            ("ipv4" | "ipv6" | "status_zone", _) => {}
            (address, "") => {
                let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
                if is_ip(host) || is_ip(address) {
                    name_servers.push(address.to_owned());
                } else {
                    let reason = format!("the DNS server {address:?} is not an IP address");
                    table.note(line.place.left_out(reason));
                }
            }
            _ => table.note(line.place.left_out(format!("{word:?} has no equivalent"))),
        }
    }
    if !name_servers.is_empty() {
        keys.insert(0, ("resolver", Value::list(&name_servers)));
    }
    table.set("discovery", Value::Table(keys));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::super::parser::parse, source};

    #[test]
    fn servers_with_resolve_are_discovered() {
        for (line, expected) in [
            ("server a.x:80 resolve;", Some(("dns", "a.x:80"))),
            (
                "server a.x service=http resolve;",
                Some(("srv", "_http._tcp.a.x")),
            ),
            (
                "server a.x service=_db._tcp resolve;",
                Some(("srv", "_db._tcp.a.x")),
            ),
            ("server a.x:80;", None),
            ("server a.x resolve;", None),
            ("server 10.0.0.1:80 resolve;", None),
        ] {
            let mut notes = Vec::new();
            let lines = parse(&"t".into(), line, Path::new("/"), &mut notes).unwrap();
            let found = source(&lines[0]);
            let found = found.as_ref().map(|(key, value)| (*key, value.as_str()));
            assert_eq!(found, expected, "{line}");
        }
    }
}
