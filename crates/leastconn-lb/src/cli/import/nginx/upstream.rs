//! `upstream` blocks, and the settings of the server that uses them.

mod discovery;
mod health;

use super::{
    super::{
        address::is_host,
        model::{Backend, Note, Place, ServerLine, Table, Value},
        names::{Names, valid},
        tls_names::{self, requires_tls13},
        toml::inline,
        units,
    },
    parser::Directive,
    settings::Settings,
};

/// nginx's default for `proxy_connect_timeout`, in milliseconds.
const CONNECT_TIMEOUT: u64 = 60_000;

/// Returns the upstream of `proxy_pass TARGET` with the settings of a `server` block. `block` is
/// the `upstream` block with that name, if there is one.
pub(crate) fn backend(
    target: &str,
    place: &Place,
    block: Option<&Directive>,
    settings: Settings<'_>,
) -> Backend {
    let mut table = Table::default();
    table.set("balance", Value::text("round_robin"));
    let mut backend = Backend {
        name: valid(target),
        place: Some(block.map_or(place, |block| &block.place).clone()),
        ..Backend::default()
    };
    table.disable_health_checks();
    match block {
        Some(block) => members(block, settings, &mut table, &mut backend.servers),
        None => match address(target) {
            Some(address) => {
                let mut server = Table::default();
                server.set("address", Value::text(address));
                backend.servers.push(ServerLine::Server {
                    name: valid(target),
                    table: server,
                });
            }
            None => backend.servers.push(ServerLine::Note(
                place.left_out(format!("{target:?} is not an address")),
            )),
        },
    }
    health::health_check(settings, &mut table);
    connecting(&mut table, settings, &backend.servers);
    if settings.is_on("proxy_protocol") {
        let version = settings
            .one("proxy_protocol_version")
            .map_or("1", |line| line.word(1));
        let kind = if version == "2" { "v2" } else { "v1" };
        table.set("proxy_protocol", Value::text(kind));
    }
    if settings.is_on("proxy_ssl") {
        tls(&mut backend, &mut table, target, settings);
    }
    backend.table = table;
    backend
}

/// Translates the lines of an `upstream` block.
fn members(
    block: &Directive,
    settings: Settings<'_>,
    table: &mut Table,
    servers: &mut Vec<ServerLine>,
) {
    let mut names = Names::default();
    let mut passive: Option<Vec<(&'static str, Value)>> = None;
    for line in block.children() {
        let place = &line.place;
        match line.name() {
            "server" => {
                let mut failures = vec![];
                match member(line, &mut failures) {
                    Ok((name, server)) => servers.push(ServerLine::Server {
                        name: names.unique(&name),
                        table: server,
                    }),
                    Err(note) => {
                        servers.push(ServerLine::Note(note));
                        continue;
                    }
                }
                let first = passive.get_or_insert_with(|| failures.clone());
                if *first != failures {
                    let first = match first.as_slice() {
                        [] => "the first server has none, so the defaults of leastconn-lb apply, \
                               \"max_fails=1 fail_timeout=10s\""
                            .to_owned(),
                        first => format!("{} of the first server apply", shown(first)),
                    };
                    let defaults = if failures.is_empty() {
                        " (nginx's defaults)"
                    } else {
                        ""
                    };
                    let own = shown(&failures);
                    table.note(place.differs(format!(
                        "{own}{defaults}: all servers of an upstream share them; {first}"
                    )));
                }
            }
            "least_conn" => table.set("balance", Value::text("least_conn")),
            "hash" if line.word(1) == "$remote_addr" || line.word(1) == "$binary_remote_addr" => {
                table.set("balance", Value::text("source_hash"));
            }
            "random" if line.word(1) == "two" => table.set("balance", Value::text("p2c")),
            "random" => table.set("balance", Value::text("random")),
            "hash" | "least_time" => {
                table.set("balance", Value::text("least_conn"));
                table.note(place.differs("the algorithm has no equivalent; least_conn instead"));
            }
            "zone" => table.note(place.remark("not needed")),
            "resolver" | "resolver_timeout" => {}
            _ => table.note(place.left_out("has no equivalent")),
        }
    }
    discovery::discovery(block, settings, table, servers);
    if let Some(ms) = slow_start(block) {
        table.set("slow_start", units::duration(ms));
        for line in block
            .children()
            .iter()
            .filter(|line| line.name() == "server")
        {
            let mut words = line.words.iter();
            let value = words.find_map(|word| word.strip_prefix("slow_start="));
            if value.and_then(|value| units::milliseconds(value, 1000)) != Some(ms) {
                table.note(line.place.differs(format!(
                    "all servers of an upstream have the longest `slow_start`: {}",
                    inline(&units::duration(ms))
                )));
            }
        }
    }
    if let Some(passive) = passive.filter(|keys| !keys.is_empty()) {
        table.set("passive", Value::Table(passive));
    }
}

/// Returns the longest `slow_start` of the servers, in milliseconds. It applies to all of them.
fn slow_start(block: &Directive) -> Option<u64> {
    let words = block.children().iter().flat_map(|line| &line.words);
    let values = words.filter_map(|word| word.strip_prefix("slow_start="));
    let values = values.filter_map(|value| units::milliseconds(value, 1000));
    values.max().filter(|ms| *ms > 0)
}

fn member(
    line: &Directive,
    failures: &mut Vec<(&'static str, Value)>,
) -> Result<(String, Table), Note> {
    let place = &line.place;
    let mut server = Table::default();
    let (key, address) = discovery::source(line)
        .or_else(|| address(line.word(1)).map(|address| ("address", address)))
        .ok_or_else(|| place.left_out("the address needs a host and a port"))?;
    server.set(key, Value::text(address));
    for option in line.arguments().iter().skip(1) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let number = value.parse::<u64>().ok();
        match (name, number) {
            ("down", _) => {
                return Err(
                    place.left_out("the server is down; add it and use `ctl maint` instead")
                );
            }
            ("backup", _) => server.set("backup", Value::Boolean(true)),
            ("weight", Some(weight)) if weight > 0 => server.set("weight", Value::Integer(weight)),
            ("max_conns", Some(limit)) => server.set("max_conns", Value::Integer(limit)),
            ("max_fails", Some(number)) => failures.push(("max_fails", Value::Integer(number))),
            ("fail_timeout", _) => match units::milliseconds(value, 1000) {
                Some(ms) => failures.push(("fail_timeout", units::duration(ms))),
                None => server.note(place.left_out("`fail_timeout` is not a duration")),
            },
            ("resolve" | "service" | "slow_start", _) => {}
            _ => server.note(place.left_out(format!("{option:?} has no equivalent"))),
        }
    }
    failures.sort_by_key(|(name, _)| *name);
    Ok((line.word(1).to_owned(), server))
}

/// Formats `max_fails` and `fail_timeout`, with nginx's defaults for missing values.
fn shown(failures: &[(&'static str, Value)]) -> String {
    let value = |key: &str, default: &str| {
        let found = failures.iter().find(|(name, _)| *name == key);
        match found.map(|(_, value)| value) {
            Some(Value::Integer(number)) => number.to_string(),
            Some(Value::Text(text)) => text.clone(),
            _ => default.to_owned(),
        }
    };
    let (fails, timeout) = (value("max_fails", "1"), value("fail_timeout", "10s"));
    format!("\"max_fails={fails} fail_timeout={timeout}\"")
}

/// Parses `HOST:PORT` or `unix:PATH`.
fn address(text: &str) -> Option<String> {
    if text.starts_with("unix:") {
        return Some(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':')?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_bare_v6 = host.contains(':') && !host.starts_with('[');
    (is_port && is_host(host) && !is_bare_v6).then(|| text.to_owned())
}

/// Translates timeouts and retries.
fn connecting(table: &mut Table, settings: Settings<'_>, servers: &[ServerLine]) {
    let is_discovered = servers.iter().any(ServerLine::is_discovered);
    let timeout = settings
        .duration("proxy_connect_timeout")
        .unwrap_or(CONNECT_TIMEOUT);
    table.set("connect_timeout", units::duration(timeout));
    let others = servers.len().saturating_sub(1) as u64;
    let on = settings
        .one("proxy_next_upstream")
        .is_none_or(|line| line.word(1) != "off");
    let tries = settings.one("proxy_next_upstream_tries");
    let tries = tries
        .and_then(|line| line.word(1).parse::<u64>().ok())
        .unwrap_or(0);
    let retries = match (on, tries) {
        (false, _) => 0,
        (true, 0) => others,
        (true, tries) if is_discovered => tries - 1,
        (true, tries) => others.min(tries - 1),
    };
    // The number of discovered servers is unknown, so the default applies.
    if !(is_discovered && on && tries == 0) {
        table.set("retries", Value::Integer(retries));
    }
    // nginx does not wait between its attempts.
    table.set("retry_for", Value::text("0s"));
    for name in [
        "proxy_next_upstream_timeout",
        "proxy_upload_rate",
        "proxy_download_rate",
        "proxy_bind",
        "proxy_requests",
        "proxy_responses",
    ] {
        if let Some(line) = settings.one(name) {
            table.note(line.place.left_out("has no equivalent"));
        }
    }
}

/// Translates the `proxy_ssl_*` directives.
fn tls(backend: &mut Backend, table: &mut Table, target: &str, settings: Settings<'_>) {
    let place = settings.one("proxy_ssl").map(|line| line.place.clone());
    let Some(place) = place else { return };
    let text = |name: &str| settings.one(name).map(|line| line.word(1).to_owned());
    let ca = text("proxy_ssl_trusted_certificate");
    let (true, Some(ca)) = (settings.is_on("proxy_ssl_verify"), ca) else {
        backend.refused.push(
            "the source does not verify the servers, and TLS without verification is not \
             supported: set `tls`"
                .to_owned(),
        );
        table.note(place.left_out("TLS without verification of the server"));
        return;
    };
    let mut tls = Table::default();
    tls.set("ca", Value::text(ca));
    if let Some(line) = settings.one("proxy_ssl_certificate") {
        let Some(key) = text("proxy_ssl_certificate_key") else {
            let reason = "nginx does not start without `proxy_ssl_certificate_key`";
            backend.refused.push(reason.to_owned());
            table.note(line.place.left_out(reason));
            return;
        };
        tls.set("cert", Value::text(line.word(1)));
        if key != line.word(1) {
            tls.set("key", Value::text(key));
        }
    }
    if let Some(crl) = text("proxy_ssl_crl") {
        tls.set("crl", Value::text(crl));
    }
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    let name = text("proxy_ssl_name").unwrap_or_else(|| host.to_owned());
    let name = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    if name.contains(['$', '_', '/']) {
        backend
            .refused
            .push("the name of the servers cannot be verified: set `server_name`".to_owned());
        table.note(place.left_out(format!("{name:?} is not a name in certificates")));
        return;
    }
    tls.set("server_name", Value::text(name));
    protocols(&mut tls, settings.one("proxy_ssl_protocols"));
    if let Some(line) = settings.one("proxy_ssl_ciphers") {
        ciphers(&mut tls, line);
    }
    backend.tls = Some(tls);
}

/// Translates the oldest version in `ssl_protocols`.
pub(crate) fn protocols(tls: &mut Table, line: Option<&Directive>) {
    let Some(line) = line else { return };
    let has = |version: &str| line.arguments().iter().any(|word| word == version);
    if !has("TLSv1.2") && has("TLSv1.3") {
        tls.set("min_version", Value::text("1.3"));
    } else {
        tls.set("min_version", Value::text("1.2"));
    }
    if has("SSLv3") || has("TLSv1") || has("TLSv1.1") {
        tls.note(
            line.place
                .differs("the oldest supported version is TLS 1.2"),
        );
    }
    if !has("TLSv1.3") {
        tls.note(line.place.differs("TLS 1.3 cannot be disabled"));
    }
}

/// Translates `ssl_ciphers`, the cipher suites of TLS 1.2. All TLS 1.3 suites stay enabled.
pub(crate) fn ciphers(tls: &mut Table, line: &Directive) {
    let list = tls_names::ciphers(line.word(1));
    if !list.unsupported.is_empty() {
        let unknown = list.unsupported.join(", ");
        tls.note(
            line.place
                .left_out(format!("not supported as cipher suites: {unknown}")),
        );
    }
    if list.names.is_empty() {
        return;
    }
    let names = tls_names::with_both_versions(list.names, requires_tls13(tls));
    tls.set("ciphers", Value::list(names));
}
