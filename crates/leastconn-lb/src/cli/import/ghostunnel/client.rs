//! `ghostunnel client`: plain TCP from clients, TLS to the target.

use super::{
    super::{
        address::is_host,
        model::{Place, Table, Value},
        toml::VARIABLE_START,
    },
    Tunnel,
    arguments::Arguments,
    certificate, min_version,
    server::is_uri,
};

pub(super) fn client(tunnel: &mut Tunnel, arguments: &Arguments) {
    let name = tunnel.backend.name.clone();
    tunnel.service.open_to_all(&name);
    let mut tls = Table::default();
    min_version(arguments, &mut tls);
    let Some(ca) = arguments.one("cacert") else {
        return refuse(
            tunnel,
            "there is no `--cacert`: the system's CA certificates are never used",
        );
    };
    tls.set("ca", Value::text(ca));
    if !arguments.is_on("disable-authentication")
        && let Err(reason) = certificate(arguments, &mut tls)
    {
        return refuse(tunnel, reason);
    }
    let target = arguments.one("target").unwrap_or("");
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    let server_name = arguments.one("override-server-name").unwrap_or(host);
    let server_name = server_name.trim_start_matches('[').trim_end_matches(']');
    // The name of the server is verified in any case.
    let mut names = arguments.all(&["verify-dns", "verify-dns-san"]);
    names.retain(|name| name != server_name);
    let others = [
        "verify-cn",
        "verify-ou",
        "verify-ip",
        "verify-ip-san",
        "verify-policy",
    ];
    let other = others.iter().find(|name| arguments.one(name).is_some());
    let other = other.map(|name| arguments.flag(name));
    let other = other.or(names
        .first()
        .map(|name| arguments.place_of("verify-dns", name)));
    if let Some(place) = other {
        return refuse_at(
            tunnel,
            &place,
            "servers are verified by `server_name`, `uri` or `pin` only",
        );
    }
    let uris = arguments.all(&["verify-uri", "verify-uri-san"]);
    if target.starts_with("unix:") && arguments.one("override-server-name").is_none() {
        return refuse(
            tunnel,
            "a target without a host name needs `--override-server-name`",
        );
    }
    if !is_host(server_name) && !server_name.contains(VARIABLE_START) {
        return refuse(tunnel, "the name of the server is not a host name");
    }
    tls.set("server_name", Value::text(server_name));
    if !uris.iter().all(|uri| is_uri(uri)) {
        return refuse_at(
            tunnel,
            &arguments.flag("verify-uri"),
            "is not a URI, or a `*` is not a whole segment of its path",
        );
    }
    if !uris.is_empty() {
        tls.set("uri", Value::strings(&uris));
    }
    tunnel.backend.tls = Some(tls);
}

/// Refuses all clients, because the target must not be dialled without TLS.
fn refuse(tunnel: &mut Tunnel, reason: &str) {
    let place = tunnel.place.clone();
    refuse_at(tunnel, &place, reason);
}

fn refuse_at(tunnel: &mut Tunnel, place: &Place, reason: &str) {
    tunnel.backend.refused.push(reason.to_owned());
    tunnel.backend.table.note(place.left_out(reason));
}
