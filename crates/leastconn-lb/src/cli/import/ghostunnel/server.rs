//! `ghostunnel server`: TLS from clients, plain TCP to the target.

use super::{
    super::{
        access::{Key, List, Predicate, Verdict},
        address::is_host,
        model::{Table, Value},
        toml::VARIABLE_START,
        values::is_accepted,
    },
    Tunnel,
    arguments::Arguments,
    certificate, min_version,
};

/// A pin that no key has: a client certificate is required, but none is accepted.
const NO_PIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

pub(super) fn server(tunnel: &mut Tunnel, arguments: &Arguments) {
    let mut tls = Table::default();
    min_version(arguments, &mut tls);
    if let Err(reason) = certificate(arguments, &mut tls) {
        tunnel.refuse(reason);
        tunnel.service.binds.clear();
        return;
    }
    let name = tunnel.backend.name.clone();
    if let Some(reason) = arguments.conflict() {
        tunnel.refuse(reason);
    }
    if arguments.is_on("disable-authentication") {
        tls.set("client_auth", Value::text("none"));
        tunnel.service.open_to_all(&name);
    } else {
        tunnel.service.certificates = true;
        tunnel.service.access = access(tunnel, arguments, &name);
        match arguments.one("cacert") {
            Some(ca) => tls.set("client_ca", Value::text(ca)),
            None => {
                tls.set("client_pins", Value::text(NO_PIN));
                let reason = "without `--cacert`, ghostunnel uses the system's CA certificates, which \
                    are never used here. `client_pins` refuses all clients: replace it by \
                    `client_ca = \"FILE\"`";
                tls.note(tunnel.place.left_out(reason));
            }
        }
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
                _ if value.contains('*') => {
                    "ghostunnel compares a `*` literally, but it is a pattern in a client rule: list \
                     the names"
                }
                _ if !is_accepted(key, value) => "is not a valid name",
                Key::Dns if !is_host(value) && !value.contains(VARIABLE_START) => {
                    "is not a DNS name"
                }
                _ => return true,
            };
            let place = arguments.place_of(names[0], value);
            tunnel.service.table.note(place.left_out(reason));
            false
        });
        if !values.is_empty() {
            list.push((Predicate::new(key, values), to()));
        }
    }
    for ip in arguments.all(&["allow-ip", "allow-ip-san"]) {
        let note = arguments.place_of("allow-ip", &ip).left_out(
            "IP addresses in certificates are not compared: add a client rule for other names",
        );
        tunnel.service.table.note(note);
    }
    if arguments.one("allow-policy").is_some() {
        let note = arguments.flag("allow-policy").left_out(
            "policies have no equivalent: write client rules for the clients that the policy allows",
        );
        tunnel.service.table.note(note);
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
        && is_accepted(Key::Uri, value)
        && value
            .chars()
            .all(|c| c.is_ascii_graphic() || c.is_control())
        && segments.all(is_segment)
}
