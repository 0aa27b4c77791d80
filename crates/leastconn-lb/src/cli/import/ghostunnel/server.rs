//! `ghostunnel server`: TLS from clients, plain TCP to the target.

use super::{
    super::{
        access::{Key, List, Predicate, Verdict},
        address::is_host,
        model::{Table, Value},
        toml::VARIABLE_START,
    },
    Tunnel,
    arguments::Arguments,
    certificate, min_version,
};

pub(super) fn server(tunnel: &mut Tunnel, arguments: &Arguments) {
    let mut tls = Table::default();
    min_version(arguments, &mut tls);
    if let Err(reason) = certificate(arguments, &mut tls) {
        tunnel.refuse(reason);
        tunnel.service.binds.clear();
        return;
    }
    let name = tunnel.backend.name.clone();
    if arguments.is_on("disable-authentication") {
        tls.set("client_auth", Value::text("none"));
        tunnel.service.open_to_all(&name);
    } else if let Some(ca) = arguments.one("cacert") {
        tls.set("client_ca", Value::text(ca));
        tunnel.service.certificates = true;
        tunnel.service.access = access(tunnel, arguments, &name);
    } else {
        tls.set("client_auth", Value::text("none"));
        tunnel.refuse("there is no `--cacert`: the system's CA certificates are never used");
    }
    tunnel.service.tls = Some(tls);
    let mode = arguments.one("proxy-protocol-mode");
    let kind = match mode {
        Some("tls") => Some("v2-tls"),
        Some("tls-full") => Some("v2-tls-full"),
        Some(_) => Some("v2"),
        None => arguments.is_on("proxy-protocol").then_some("v2"),
    };
    if let Some(kind) = kind {
        tunnel
            .backend
            .table
            .set("proxy_protocol", Value::text(kind));
    }
}

/// Returns one rule per flag, because a client needs to match only one of them.
fn access(tunnel: &mut Tunnel, arguments: &Arguments, name: &str) -> List {
    let to = || Verdict::To(name.to_owned());
    let mut list = List::new();
    let place = tunnel.place.clone();
    for (key, names) in [
        (Key::Cn, &["allow-cn"][..]),
        (Key::Ou, &["allow-ou"]),
        (Key::Dns, &["allow-dns", "allow-dns-san"]),
        (Key::Uri, &["allow-uri", "allow-uri-san"]),
    ] {
        let mut values = arguments.all(names);
        values.retain(|value| {
            let reason = match key {
                Key::Uri if value.trim_end_matches("**").contains("**") => {
                    "`**` is allowed at the end only"
                }
                Key::Uri if is_uri(value) => return true,
                Key::Uri => "is not a URI, or a `*` is not a whole segment of its path",
                _ if value.is_empty() => "is empty",
                _ if value.contains('*') => "contains a `*`",
                Key::Dns if !is_host(value) && !value.contains(VARIABLE_START) => {
                    "is not a DNS name"
                }
                _ => return true,
            };
            let reason = format!("--{} {value}: {reason}", names[0]);
            tunnel.service.table.note(place.left_out(reason));
            false
        });
        if !values.is_empty() {
            list.push((Predicate::new(key, values), to()));
        }
    }
    for ip in arguments.all(&["allow-ip", "allow-ip-san"]) {
        let reason = format!("--allow-ip {ip}: IP addresses in certificates are not compared");
        tunnel.service.table.note(place.left_out(reason));
    }
    if arguments.one("allow-policy").is_some() {
        tunnel
            .service
            .table
            .note(place.left_out("--allow-policy: policies have no equivalent"));
    }
    let rest = if arguments.is_on("allow-all") {
        to()
    } else {
        Verdict::Refuse
    };
    list.push((Predicate::default(), rest));
    list
}

/// Whether a URI can be compared by a client rule.
pub(super) fn is_uri(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once(':') else {
        return value.contains(VARIABLE_START);
    };
    let mut segments = rest.split('/');
    let is_segment = |segment: &str| !segment.contains('*') || matches!(segment, "*" | "**");
    !scheme.is_empty()
        && value
            .chars()
            .all(|c| c.is_ascii_graphic() || c.is_control())
        && segments.all(is_segment)
}
