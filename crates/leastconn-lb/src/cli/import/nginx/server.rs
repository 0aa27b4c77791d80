//! `server` blocks of `stream`.

use std::collections::BTreeSet;

use super::{
    super::{
        access::{Condition, Key, List, Predicate, Verdict, always, chain, when},
        model::{Limits, Note, Service, Table, Value},
        networks::network,
        tls_names, units,
    },
    NETWORK_LOG,
    listen::Listen,
    map::{self, Scope},
    parser::Directive,
    proxy::{self, Address},
    settings::Settings,
    upstream,
};

/// nginx's defaults for `proxy_timeout` and `ssl_handshake_timeout`, in milliseconds.
const IDLE_TIMEOUT: u64 = 600_000;
const HANDSHAKE_TIMEOUT: u64 = 60_000;

/// nginx's default for `ssl_verify_depth`.
const VERIFY_DEPTH: u64 = 1;

/// Directives that need no equivalent.
const NOT_NEEDED: [&str; 29] = [
    "error_log",
    "tcp_nodelay",
    "proxy_buffer_size",
    "preread_timeout",
    "preread_buffer_size",
    "variables_hash_max_size",
    "variables_hash_bucket_size",
    "map_hash_max_size",
    "map_hash_bucket_size",
    "ssl_session_cache",
    "ssl_session_tickets",
    "ssl_session_timeout",
    "ssl_session_ticket_key",
    "ssl_dhparam",
    "ssl_prefer_server_ciphers",
    "proxy_socket_keepalive",
    "proxy_half_close",
    "limit_conn_log_level",
    "limit_conn_status",
    "open_log_file_cache",
    "proxy_session_drop",
    "proxy_protocol_timeout",
    "proxy_ssl_server_name",
    "proxy_ssl_session_reuse",
    "proxy_ssl_verify_depth",
    "ssl_buffer_size",
    "status_zone",
    "status",
    "server_names_hash_bucket_size",
];

/// Directives that are translated together with other directives.
const KNOWN: [&str; 51] = [
    "listen",
    "proxy_pass",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_client_certificate",
    "ssl_trusted_certificate",
    "ssl_crl",
    "ssl_verify_client",
    "ssl_verify_depth",
    "ssl_protocols",
    "ssl_ciphers",
    "ssl_ecdh_curve",
    "ssl_alpn",
    "ssl_handshake_timeout",
    "ssl_preread",
    "allow",
    "deny",
    "limit_conn",
    "limit_conn_zone",
    "limit_conn_dry_run",
    "set_real_ip_from",
    "proxy_timeout",
    "proxy_connect_timeout",
    "proxy_protocol",
    "proxy_protocol_version",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "proxy_next_upstream_timeout",
    "proxy_upload_rate",
    "proxy_download_rate",
    "proxy_bind",
    "proxy_requests",
    "proxy_responses",
    "proxy_ssl",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "proxy_ssl_ciphers",
    "proxy_ssl_crl",
    "proxy_ssl_name",
    "proxy_ssl_protocols",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_verify",
    "health_check",
    "health_check_timeout",
    "match",
    "resolver",
    "resolver_timeout",
    "upstream",
    "server",
    "map",
    "geo",
];

const ACCESS_LOG: &str = "the access log is JSON; fields: docs/reference/logs.md";

/// Sets `[log] access` if all servers write to the same file.
pub(crate) fn access_log(stream: &[Directive], log: &mut Table) {
    let servers = stream.iter().filter(|line| line.name() == "server");
    let lines = servers.flat_map(Directive::children).chain(stream);
    let mut lines: Vec<_> = lines.filter(|line| line.name() == "access_log").collect();
    lines.retain(|line| line.word(1) != "off");
    let paths: BTreeSet<_> = lines.iter().map(|line| line.word(1)).collect();
    let paths: Vec<_> = paths.into_iter().collect();
    match paths.as_slice() {
        [] => {}
        [path] if !path.contains('$') && !path.starts_with("syslog:") => {
            log.set("access", Value::text(*path));
        }
        _ => {
            for line in lines {
                log.note(line.place.left_out(
                    "there is one access log, in a file or on standard output: set `[log] access`",
                ));
            }
        }
    }
}

/// Returns a note for a directive of `stream` or `server` that is not translated.
pub(crate) fn remark(line: &Directive) -> Option<Note> {
    let (name, place) = (line.name(), &line.place);
    match name {
        "error_log" if line.word(1).starts_with("syslog:") => Some(place.left_out(NETWORK_LOG)),
        _ if NOT_NEEDED.contains(&name) => Some(place.remark("not needed")),
        _ if KNOWN.contains(&name) => None,
        "access_log" | "log_format" => Some(place.remark(ACCESS_LOG)),
        "server_name" => {
            Some(place.remark("selects the `server` block if several blocks have the same address"))
        }
        "ssl_stapling"
        | "ssl_stapling_verify"
        | "ssl_stapling_file"
        | "ssl_stapling_responder"
        | "ssl_ocsp" => Some(place.left_out("OCSP is not supported; use a CRL")),
        "ssl_password_file" | "proxy_ssl_password_file" => {
            Some(place.left_out("private keys must not be encrypted"))
        }
        _ => Some(place.left_out("has no equivalent")),
    }
}

/// Returns the line with the target of a `server` block or, if there is none, a line to refer to.
pub(crate) fn pass(settings: Settings<'_>) -> Option<&Directive> {
    let line = |name: &str| settings.server.iter().find(|line| line.name() == name);
    line("proxy_pass").or_else(|| line("listen"))
}

/// Returns the listener for an address of a `server` block, and the decisions of `allow` and `deny`.
/// The verdicts contain targets of `proxy_pass`.
pub(crate) fn service(
    name: String,
    listen: &Listen,
    pass: &Directive,
    settings: Settings<'_>,
) -> (Service, List) {
    let mut service = Service {
        name,
        place: Some(pass.place.clone()),
        binds: listen.addresses.clone(),
        table: listen.table.clone(),
        ..Service::default()
    };
    let idle = settings.duration("proxy_timeout").unwrap_or(IDLE_TIMEOUT);
    service.table.set("idle_timeout", units::duration(idle));
    if listen.tls {
        tls(&mut service, settings);
    }
    remarks(&mut service, settings);
    let address = if listen.proxy_protocol {
        proxy::trusted(&mut service, settings)
    } else {
        Address::Client
    };
    let decisions = access(&mut service, address, pass, settings);
    let (passes, list) = decisions.unwrap_or_else(|reason| {
        service.table.note(
            pass.place
                .left_out(format!("{reason}; all clients are refused")),
        );
        service.refused.push(reason);
        also_left_out(&mut service, settings);
        (always(Verdict::Refuse), always(Verdict::Refuse))
    });
    service.access = list;
    limits(&mut service, address, settings);
    (service, passes)
}

/// Adds notes for the restrictions and the upstream settings of a listener without a translated
/// target.
fn also_left_out(service: &mut Service, settings: Settings<'_>) {
    let restrictions = settings.all(&["allow", "deny"]);
    let connecting = [
        "proxy_protocol",
        "proxy_connect_timeout",
        "proxy_next_upstream",
        "proxy_ssl",
    ];
    let connecting = connecting.iter().filter_map(|name| settings.one(name));
    for line in restrictions.into_iter().chain(connecting) {
        service.table.note(
            line.place
                .left_out("also left out, because no client may use the listener"),
        );
    }
}

/// Whether a directive without an equivalent can refuse clients or serve them itself.
fn may_refuse(line: &Directive) -> bool {
    let name = line.name();
    let is_script =
        name.contains("_by_lua") && !name.starts_with("init") && !name.starts_with("log");
    let is_on = name == "ssl_reject_handshake" && line.word(1) == "on";
    let others = [
        "return",
        "pass",
        "set",
        "js_access",
        "js_preread",
        "js_filter",
    ];
    is_script || is_on || others.contains(&name)
}

/// Adds notes for directives that are not translated.
fn remarks(service: &mut Service, settings: Settings<'_>) {
    for line in settings.stream.iter().filter(|line| may_refuse(line)) {
        let reason = format!("`{}` has no equivalent", line.name());
        if !service.refused.contains(&reason) {
            service.refused.push(reason);
        }
    }
    for line in settings.server {
        let (name, place) = (line.name(), &line.place);
        if name == "ssl_preread" && line.word(1) == "on" {
            service.table.note(
                place.remark("names in a TLS handshake are read only if the listener has TLS"),
            );
        } else if may_refuse(line) {
            service.refused.push(format!("`{name}` has no equivalent"));
            service.table.note(place.left_out("has no equivalent"));
        } else if let Some(note) = remark(line) {
            service.table.note(note);
        }
    }
}

fn tls(service: &mut Service, settings: Settings<'_>) {
    let text = |name: &str| settings.one(name).map(|line| line.word(1).to_owned());
    let mut tls = Table::default();
    let certificates = settings.all(&["ssl_certificate"]);
    let keys = settings.all(&["ssl_certificate_key"]);
    let (Some(cert), Some(key)) = (certificates.first(), keys.first()) else {
        service.binds.clear();
        let line = settings.server.iter().find(|line| line.name() == "listen");
        if let Some(line) = line {
            service
                .table
                .note(line.place.left_out("the listener has no certificate"));
        }
        return;
    };
    tls.set("cert", Value::text(cert.word(1)));
    if key.word(1) != cert.word(1) {
        tls.set("key", Value::text(key.word(1)));
    }
    if [cert, key]
        .iter()
        .any(|line| line.word(1).contains(['$', ':']))
    {
        service.binds.clear();
        service
            .table
            .note(cert.place.left_out("the certificate is not a file"));
        return;
    }
    for line in certificates.iter().skip(1) {
        tls.note(
            line.place
                .left_out("a listener has one certificate: the first is used"),
        );
    }
    let verify = settings.one("ssl_verify_client");
    match verify.map_or("off", |line| line.word(1)) {
        "off" => tls.set("client_auth", Value::text("none")),
        mode => {
            let ca = text("ssl_client_certificate").or_else(|| text("ssl_trusted_certificate"));
            let trusted = settings.one("ssl_trusted_certificate");
            if let Some(line) = trusted.filter(|line| ca.as_deref() != Some(line.word(1))) {
                tls.note(line.place.left_out(
                    "nginx accepts the certificates of both files: for the same, join both files \
                     for `client_ca`",
                ));
            }
            if let (Some(line), "optional" | "optional_no_ca") = (verify, mode) {
                tls.note(line.place.differs(
                    "client certificates are required and verified: other clients are refused",
                ));
            }
            match ca {
                Some(ca) => {
                    service.certificates = true;
                    tls.set("client_ca", Value::text(ca));
                    if let Some(crl) = text("ssl_crl") {
                        tls.set("crl", Value::text(crl));
                    }
                    let line = settings.one("ssl_verify_depth");
                    let depth = line.and_then(|line| line.word(1).parse().ok());
                    service.table.set(
                        "max_intermediates",
                        Value::Integer(depth.unwrap_or(VERIFY_DEPTH)),
                    );
                    if let Some(line) = line.or(verify) {
                        tls.note(line.place.remark(
                            "`max_intermediates` counts all certificates that a client sends \
                             beside its own, also a root certificate",
                        ));
                    }
                }
                None => {
                    tls.set("client_auth", Value::text("none"));
                    service
                        .refused
                        .push("there is no `ssl_client_certificate`".to_owned());
                }
            }
        }
    }
    upstream::protocols(&mut tls, settings.one("ssl_protocols"));
    if let Some(line) = settings.one("ssl_ciphers") {
        upstream::ciphers(&mut tls, line);
    }
    if let Some(line) = settings
        .one("ssl_ecdh_curve")
        .filter(|line| line.word(1) != "auto")
    {
        let (known, unknown) = tls_names::groups(line.word(1));
        if !known.is_empty() {
            tls.set("groups", Value::list(known));
        }
        if !unknown.is_empty() {
            tls.note(
                line.place
                    .left_out(format!("not supported: {}", unknown.join(", "))),
            );
        }
    }
    if let Some(line) = settings.one("ssl_alpn") {
        let protocols = line.arguments().iter().filter(|word| !word.is_empty());
        let protocols: Vec<_> = protocols.collect();
        if !protocols.is_empty() {
            tls.set("alpn", Value::list(protocols));
        }
    }
    let timeout = settings
        .duration("ssl_handshake_timeout")
        .unwrap_or(HANDSHAKE_TIMEOUT);
    service
        .table
        .set("handshake_timeout", units::duration(timeout));
    service.tls = Some(tls);
}

/// Translates `allow`, `deny` and `proxy_pass`. Returns the decisions of `allow` and `deny`, and those
/// of all three.
fn access(
    service: &mut Service,
    address: Address,
    pass: &Directive,
    settings: Settings<'_>,
) -> Result<(List, List), String> {
    if pass.name() != "proxy_pass" {
        return Err("there is no `proxy_pass`".to_owned());
    }
    let rules = settings.all(&["allow", "deny"]);
    if let (Address::Proxy, [line, ..]) = (address, rules.as_slice()) {
        proxy::refuse(service, line, "`allow` and `deny` apply to");
    }
    let mut passes = always(Verdict::Accept);
    for line in rules.iter().rev() {
        let condition = match line.word(1) {
            "all" => Condition::Constant(true),
            text => match network(text) {
                Some(network) => {
                    Condition::Is(Predicate::new(Key::Source, vec![network.to_string()]))
                }
                None if line.name() == "allow" => {
                    service
                        .table
                        .note(line.place.left_out("is not an IP network"));
                    continue;
                }
                None => return Err(format!("{text:?} is not an IP network")),
            },
        };
        let verdict = if line.name() == "allow" {
            Verdict::Accept
        } else {
            Verdict::Refuse
        };
        passes = when(&condition, &always(verdict), &passes).map_err(|_| "too many rules")?;
    }
    let target = pass.word(1);
    let preread = map::preread_targets(target, settings.stream);
    let targets = if let [target] = preread.as_slice()
        && !target.is_empty()
        && !target.contains('$')
    {
        // All server names lead to the same upstream.
        let reason = if service.tls.is_some() {
            "all entries have the same upstream"
        } else {
            "all entries have the same upstream: TLS passes through unchanged"
        };
        service.table.note(pass.place.remark(reason));
        always(Verdict::To(target.clone()))
    } else if target.starts_with('$') {
        service.targets = preread;
        service.targets.retain(|target| !target.is_empty());
        let scope = Scope {
            stream: settings.stream,
            tls: service.tls.is_some(),
            certificates: service.certificates,
        };
        if address == Address::Proxy && map::reads_address(target, scope) {
            proxy::refuse(service, pass, &format!("{target} depends on"));
        }
        let mut notes = Vec::new();
        let list = map::values(target, scope, &mut notes)?;
        service.table.notes.extend(notes);
        list
    } else if target.contains('$') {
        return Err(format!("{target:?} has no equivalent"));
    } else {
        always(Verdict::To(target.to_owned()))
    };
    let list = chain(&passes, &Verdict::Accept, &targets).map_err(|_| "too many rules")?;
    Ok((passes, list))
}

/// Translates `limit_conn`.
fn limits(service: &mut Service, address: Address, settings: Settings<'_>) {
    if settings.is_on("limit_conn_dry_run") {
        return;
    }
    for line in settings.all(&["limit_conn"]) {
        let zone = format!("zone={}:", line.word(1));
        let defined = settings.stream.iter().find(|zone_line| {
            zone_line.name() == "limit_conn_zone" && zone_line.word(2).starts_with(&zone)
        });
        let key = defined.map_or("", |zone_line| zone_line.word(1));
        let limit: Option<u64> = line.word(2).parse().ok();
        let scope = Scope {
            stream: settings.stream,
            tls: service.tls.is_some(),
            certificates: service.certificates,
        };
        if address == Address::Proxy && matches!(key, "$binary_remote_addr" | "$remote_addr") {
            proxy::refuse(service, line, "`limit_conn` counts connections by");
        }
        match (key, limit) {
            // A client with a certificate is limited by its identity.
            (key, Some(limit)) if map::identifies_client(key, scope) => {
                max_conns(service, limit, line);
                if !matches!(key, "$binary_remote_addr" | "$remote_addr") {
                    service.table.note(line.place.differs(
                        "nginx reads this key before the TLS handshake, when it is empty, so the \
                         limit has no effect there; `max_conns` limits each client here",
                    ));
                }
            }
            ("$binary_remote_addr" | "$remote_addr", Some(limit)) => {
                max_conns(service, limit, line);
                service.table.note(line.place.differs(
                    "`max_conns` counts the connections of each client certificate, the source \
                     those of each address",
                ));
            }
            _ => {
                service.table.note(
                    line.place
                        .left_out("connections are limited per client only"),
                );
                service.refused.push("a limit has no equivalent".to_owned());
            }
        }
    }
}

/// Limits the open connections of each client, unless there is a stricter limit.
fn max_conns(service: &mut Service, limit: u64, line: &Directive) {
    let max_conns = Limits {
        rate: None,
        max_conns: Some(limit.max(1)),
    };
    service.limits = service.limits.stricter(max_conns);
    service.limited_by.push(line.place.clone());
    service.counter = Some(line.word(1).to_owned());
}

#[cfg(test)]
mod tests;
