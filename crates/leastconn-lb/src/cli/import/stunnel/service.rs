//! stunnel services.

mod client;
mod server;
mod tls;

use std::path::Path;

use super::{
    super::{
        access::{Verdict, always},
        address::{bracketed, is_host, is_ip},
        model::{Backend, Imported, ServerLine, Service, Table, Value},
        units,
    },
    options::{Section, Setting},
};

/// Options that are translated, or that have an effect only with the values in [`remarks`].
const KNOWN: [&str; 30] = [
    "accept",
    "connect",
    "client",
    "cert",
    "key",
    "cafile",
    "crlfile",
    "verify",
    "verifychain",
    "verifypeer",
    "requirecert",
    "checkhost",
    "checkip",
    "sslversion",
    "sslversionmin",
    "sslversionmax",
    "ciphers",
    "ciphersuites",
    "curve",
    "curves",
    "timeoutidle",
    "timeoutclose",
    "timeoutconnect",
    "timeoutbusy",
    "failover",
    "protocol",
    "sni",
    "options",
    "ocspaia",
    "transparent",
];

/// Options that need no equivalent.
const NOT_NEEDED: [&str; 18] = [
    "delay",
    "libwrap",
    "sessioncachesize",
    "sessioncachetimeout",
    "sessionresume",
    "renegotiation",
    "reset",
    "stack",
    "debug",
    "retry",
    "logid",
    "ticketkeysecret",
    "ticketmacsecret",
    "socket",
    "securitylevel",
    "iconactive",
    "iconerror",
    "iconidle",
];

/// Translates an option of the process.
pub(super) fn global(option: &Setting, imported: &mut Imported) {
    let note = match option.name.as_str() {
        "engine" | "enginectrl" | "enginedefault" => option.place.left_out("has no equivalent"),
        _ => option.place.remark("not needed"),
    };
    imported.process.note(note);
}

/// Translates a service to a listener and an upstream.
pub(super) fn translate(section: &Section, dir: Option<&Path>) -> (Service, Backend) {
    let mut service = Service {
        name: section.name.clone(),
        place: Some(section.place.clone()),
        home: Some(section.name.clone()),
        access: always(Verdict::To(section.name.clone())),
        ..Service::default()
    };
    let mut backend = Backend {
        name: section.name.clone(),
        place: Some(section.place.clone()),
        ..Backend::default()
    };
    if let Some(option) = section.one("accept") {
        match listen(&option.value) {
            Ok(address) => service.binds.push(address),
            Err(reason) => service.table.note(option.place.left_out(reason)),
        }
    }
    service.table.set(
        "handshake_timeout",
        units::duration(section.seconds("timeoutbusy", 300)),
    );
    service.table.set(
        "idle_timeout",
        units::duration(section.seconds("timeoutidle", 43_200)),
    );
    let wanted = section.seconds("timeoutclose", 60);
    let close = wanted.max(1_000);
    service
        .table
        .set("half_close_timeout", units::duration(close));
    if wanted < close
        && let Some(option) = section.one("timeoutclose")
    {
        let note = option.place.remark("`half_close_timeout` is at least 1 s");
        service.table.note(note);
    }
    defaults(section, &mut service);
    servers(section, &mut backend);
    if section.is_on("client") {
        client::client(section, &mut service, &mut backend, dir);
    } else {
        server::server(section, &mut service, &mut backend, dir);
    }
    remarks(section, &mut service);
    (service, backend)
}

/// Explains timeouts that the source does not set.
fn defaults(section: &Section, service: &mut Service) {
    let timeouts = [
        ("timeoutbusy", "TIMEOUTbusy", "handshake_timeout"),
        ("timeoutidle", "TIMEOUTidle", "idle_timeout"),
        ("timeoutclose", "TIMEOUTclose", "half_close_timeout"),
    ];
    let unset = timeouts
        .iter()
        .filter(|(name, ..)| section.one(name).is_none());
    let (options, keys): (Vec<_>, Vec<_>) = unset
        .map(|(_, option, key)| (format!("`{option}`"), format!("`{key}`")))
        .unzip();
    if keys.is_empty() {
        return;
    }
    let (keys, options) = (keys.join(", "), options.join(", "));
    let reason = format!("without {options}, stunnel's defaults apply: {keys}");
    service.table.note(section.place.remark(reason));
}

/// Adds notes for options without an equivalent.
fn remarks(section: &Section, service: &mut Service) {
    for option in &section.options {
        let (name, place) = (option.name.as_str(), &option.place);
        let left_out = match name {
            "libwrap" if option.value.eq_ignore_ascii_case("yes") => {
                "the files hosts.allow and hosts.deny are not read: use `source` in client rules"
            }
            "exec" => "programs are not started; only `connect` is supported",
            // `client` reads a bundle in this directory, or refuses all clients.
            "capath" if section.is_on("client") => continue,
            "capath" | "crlpath" if section.file(name).is_none() => continue,
            "capath" | "crlpath" => {
                "directories of certificates are not supported: name a file of certificates"
            }
            "local" => "the source address towards the servers cannot be set; use `proxy_protocol`",
            "redirect" => "clients without a valid certificate are refused, not redirected",
            "checkemail" => "e-mail addresses in certificates are not compared",
            "ocsp" => "OCSP is not supported; use a CRL",
            "ocspaia" if option.value == "yes" => "OCSP is not supported; use a CRL",
            "pskidentity" | "psksecrets" => "pre-shared keys are not supported",
            "ident" => "user names (IDENT) are not queried",
            "transparent" if option.value != "none" => {
                "source addresses are not kept; use `proxy_protocol`"
            }
            "sslversionmax" if option.value != "all" => "a maximum TLS version cannot be set",
            name if NOT_NEEDED.contains(&name) => {
                service.table.note(place.remark("not needed"));
                continue;
            }
            name if KNOWN.contains(&name) => continue,
            _ => "has no equivalent",
        };
        let is_restriction = matches!(
            name,
            "libwrap"
                | "capath"
                | "crlpath"
                | "checkemail"
                | "ocsp"
                | "ocspaia"
                | "pskidentity"
                | "psksecrets"
                | "ident"
        );
        service.table.note(place.left_out(left_out));
        if is_restriction {
            service
                .refused
                .push(format!("`{}` has no equivalent", option.spelled()));
        }
    }
}

/// Translates `connect`, `failover` and `TIMEOUTconnect`.
fn servers(section: &Section, backend: &mut Backend) {
    let in_turn = section
        .one("failover")
        .is_some_and(|option| option.value == "rr");
    backend.table.set("balance", Value::text("round_robin"));
    let timeout = section.seconds("timeoutconnect", 10);
    backend
        .table
        .set("connect_timeout", units::duration(timeout));
    backend.table.disable_health_checks();
    let targets = section.all("connect");
    for (number, option) in targets.iter().enumerate() {
        let Some(address) = target(&option.value) else {
            let note = option.place.left_out("the address needs a host and a port");
            backend.servers.push(ServerLine::Note(note));
            continue;
        };
        let mut table = Table::default();
        table.set("address", Value::text(address));
        if !in_turn && number > 0 {
            table.set("backup", Value::Boolean(true));
        }
        if !in_turn && number > 1 {
            table.note(option.place.differs("backup servers have no order"));
        }
        backend.servers.push(ServerLine::Server {
            name: format!("server{}", number + 1),
            table,
        });
    }
    let retries = targets.len().saturating_sub(1) as u64;
    backend.table.set("retries", Value::Integer(retries));
    if targets.is_empty() {
        let note = section.place.left_out("the service has no `connect`");
        backend.servers.push(ServerLine::Note(note));
    }
}

fn protocol(section: &Section, service: &mut Service, backend: &mut Backend) {
    let Some(option) = section.one("protocol") else {
        return;
    };
    match option.value.as_str() {
        "proxy" => backend.table.set("proxy_protocol", Value::text("v1")),
        "pgsql" if !section.is_on("client") => {
            service.table.set("starttls", Value::text("postgres"));
        }
        other => {
            service.table.note(
                option
                    .place
                    .left_out(format!("the protocol {other:?} is not supported")),
            );
            service
                .refused
                .push(format!("the protocol {other:?} is not supported"));
        }
    }
}

/// Parses `[HOST:]PORT` or a path.
fn listen(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(format!("unix:{text}"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let host = match host {
        "" => "0.0.0.0".to_owned(),
        "localhost" => "127.0.0.1".to_owned(),
        "::" | ":" => "[::]".to_owned(),
        host => bracketed(host),
    };
    let port = port_number(port);
    match port.filter(|_| is_ip(&host)) {
        Some(port) => Ok(format!("{host}:{port}")),
        None => Err(format!("{text:?} is not an IP address with a port number")),
    }
}

/// Parses `[HOST:]PORT` or a path. The default host is 127.0.0.1.
fn target(text: &str) -> Option<String> {
    if text.starts_with('/') {
        return Some(format!("unix:{text}"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    let port = port_number(port).filter(|port| *port > 0)?;
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    if !is_host(host) {
        return None;
    }
    Some(format!("{}:{port}", bracketed(host)))
}

/// Parses a port number, or the name of a service that stunnel is often used for.
fn port_number(text: &str) -> Option<u16> {
    let port = match text {
        "smtp" => 25,
        "http" => 80,
        "pop3" => 110,
        "nntp" => 119,
        "imap" | "imap2" => 143,
        "ldap" => 389,
        "https" => 443,
        "ssmtp" | "smtps" | "submissions" => 465,
        "syslog" => 514,
        "nntps" => 563,
        "submission" => 587,
        "ldaps" => 636,
        "imaps" => 993,
        "pop3s" => 995,
        "openvpn" => 1194,
        "mysql" => 3306,
        "postgresql" => 5432,
        "redis" => 6379,
        _ => return text.parse().ok(),
    };
    Some(port)
}
