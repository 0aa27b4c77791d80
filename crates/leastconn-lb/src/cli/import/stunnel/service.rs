//! Services of stunnel.

use std::path::Path;

use super::{
    super::{
        address::{bracketed, is_ip},
        access::{Key, Predicate, Verdict, always},
        model::{Backend, Imported, ServerLine, Service, Table, Value},
        pem, tls_names, units,
    },
    options::{Section, Setting},
};

/// Options that are translated.
const KNOWN: [&str; 35] = [
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
    "capath",
    "crlpath",
    "checkemail",
    "exec",
    "options",
    "ocsp",
    "ocspaia",
    "pskidentity",
];

/// Options that need no equivalent.
const NOT_NEEDED: [&str; 15] = [
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
];

/// An option of the process.
pub(super) fn global(option: &Setting, imported: &mut Imported) {
    let note = match option.name.as_str() {
        "include" | "engine" | "enginectrl" | "enginedefault" => {
            option.place.left_out("has no equivalent")
        }
        _ => option.place.remark("not needed"),
    };
    imported.process.note(note);
}

/// How certificates of the peer are verified.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verify {
    None,
    Chain,
    /// The peer's certificate must be in `CAfile`. `chain`: its authorities as well.
    Peer {
        chain: bool,
    },
}

impl Verify {
    fn of(section: &Section) -> Self {
        let level = section
            .one("verify")
            .and_then(|option| option.value.parse::<u32>().ok());
        let chain = section.is_on("verifychain");
        match level {
            _ if section.is_on("verifypeer") => Self::Peer { chain },
            _ if chain => Self::Chain,
            None | Some(0) => Self::None,
            Some(3) => Self::Peer { chain: true },
            Some(4) => Self::Peer { chain: false },
            Some(_) => Self::Chain,
        }
    }
}

/// The listener and the upstream of a service.
pub(super) fn translate(section: &Section, dir: Option<&Path>) -> (Service, Backend) {
    let mut service = Service {
        name: section.name.clone(),
        home: Some(section.name.clone()),
        access: always(Verdict::To(section.name.clone())),
        ..Service::default()
    };
    let mut backend = Backend {
        name: section.name.clone(),
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
    let close = section.seconds("timeoutclose", 60).max(1_000);
    service
        .table
        .set("half_close_timeout", units::duration(close));
    servers(section, &mut backend);
    if section.is_on("client") {
        client(section, &mut service, &mut backend, dir);
    } else {
        server(section, &mut service, &mut backend, dir);
    }
    remarks(section, &mut service);
    (service, backend)
}

/// Notes for options without an equivalent.
fn remarks(section: &Section, service: &mut Service) {
    for option in &section.options {
        let (name, place) = (option.name.as_str(), &option.place);
        let left_out = match name {
            "exec" => "programs are not started; only `connect` is supported",
            "capath" | "crlpath" => "directories of certificates are not supported",
            "checkemail" => "e-mail addresses in certificates are not compared",
            "ocsp" => "OCSP is not supported; use a CRL",
            "ocspaia" if option.value == "yes" => "OCSP is not supported; use a CRL",
            "pskidentity" | "psksecrets" => "pre-shared keys are not supported",
            "ident" => "user names (IDENT) are not queried",
            "transparent" if option.value != "none" => {
                "source addresses are not kept; use `proxy_protocol`"
            }
            "sslversionmax" if option.value != "all" => "the newest TLS version cannot be limited",
            name if NOT_NEEDED.contains(&name) => {
                service.table.note(place.remark("not needed"));
                continue;
            }
            name if KNOWN.contains(&name)
                || name.starts_with("ocspaia")
                || name == "transparent" =>
            {
                continue;
            }
            _ => "has no equivalent",
        };
        let is_restriction = matches!(
            name,
            "capath"
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
                .push(format!("`{}` has no equivalent", option.name));
        }
    }
}

/// `connect`, `failover` and `TIMEOUTconnect`.
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
            table.note(
                option
                    .place
                    .left_out("backup servers have no order among each other"),
            );
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

/// TLS from clients.
fn server(section: &Section, service: &mut Service, backend: &mut Backend, dir: Option<&Path>) {
    let mut tls = Table::default();
    let Some(cert) = section.one("cert") else {
        if section.one("accept").is_some() {
            service
                .table
                .note(section.place.left_out("the service has no certificate"));
        }
        service.binds.clear();
        return;
    };
    tls.set("cert", Value::text(&cert.value));
    if let Some(key) = section.one("key").filter(|key| key.value != cert.value) {
        tls.set("key", Value::text(&key.value));
    }
    common(section, &mut tls);
    let verify = Verify::of(section);
    let ca = section.one("cafile");
    let is_optional = section
        .one("verify")
        .is_some_and(|option| option.value == "1")
        || section
            .one("requirecert")
            .is_some_and(|option| option.value == "no");
    match (verify, ca) {
        (Verify::None, _) if !section.is_on("requirecert") => {
            tls.set("client_auth", Value::text("none"));
        }
        (Verify::None, _) | (_, None) => {
            tls.set("client_auth", Value::text("none"));
            let reason = match ca {
                Some(_) => "`requireCert` alone does not verify clients: set `verifyChain`",
                None => "clients cannot be verified without `CAfile`",
            };
            tls.note(section.place.left_out(reason));
            service.refused.push(reason.to_owned());
        }
        (verify, Some(ca)) => {
            service.certificates = true;
            if is_optional {
                tls.note(
                    section.place.left_out(
                        "client certificates are required: clients without one are refused",
                    ),
                );
            }
            if verify == Verify::Chain || verify == (Verify::Peer { chain: true }) {
                tls.set("client_ca", Value::text(&ca.value));
                if let Some(crl) = section.one("crlfile") {
                    tls.set("crl", Value::text(&crl.value));
                }
            }
            if verify != Verify::Chain {
                peers(service, &mut tls, ca, dir, verify);
            }
        }
    }
    names(section, service, backend);
    protocol(section, service, backend);
    service.tls = Some(tls);
}

/// Accepts only clients with the public keys of the certificates in `CAfile`.
fn peers(service: &mut Service, tls: &mut Table, ca: &Setting, dir: Option<&Path>, verify: Verify) {
    let path = dir.unwrap_or(Path::new("")).join(&ca.value);
    let Some(pins) = pem::key_pins(&path).filter(|pins| !pins.is_empty()) else {
        tls.set("client_auth", Value::text("none"));
        tls.remove("client_ca");
        tls.remove("crl");
        service.certificates = false;
        let reason = "`verifyPeer` needs the certificates in `CAfile`, which cannot be read";
        tls.note(ca.place.left_out(reason));
        service.refused.push(reason.to_owned());
        return;
    };
    if verify == (Verify::Peer { chain: false }) {
        tls.set("client_pins", Value::strings(&pins));
    }
    service.access.splice(
        0..0,
        [(
            Predicate::new(Key::Spki, pins),
            Verdict::To(service.name.clone()),
        )],
    );
    service.access.truncate(1);
    service.access.push((Predicate::default(), Verdict::Refuse));
}

/// Translates `checkHost` of clients: a DNS name in the subject alternative names.
fn names(section: &Section, service: &mut Service, backend: &Backend) {
    let hosts: Vec<_> = section
        .all("checkhost")
        .iter()
        .map(|option| option.value.clone())
        .collect();
    if let Some(option) = section.one("checkip") {
        service.table.note(
            option
                .place
                .left_out("IP addresses in certificates are not compared"),
        );
        service
            .refused
            .push("`checkIP` has no equivalent".to_owned());
    }
    if hosts.is_empty() || !service.certificates {
        return;
    }
    if let Some(option) = section.one("checkhost") {
        service.table.note(
            option
                .place
                .remark("`dns` compares alternative names only, not the common name"),
        );
    }
    let mut predicate = Predicate::new(Key::Dns, hosts);
    if let Some((earlier, _)) = service.access.first()
        && let Some(pins) = earlier.get(Key::Spki)
    {
        predicate.require(Key::Spki, pins.to_vec());
    }
    service.access = vec![
        (predicate, Verdict::To(backend.name.clone())),
        (Predicate::default(), Verdict::Refuse),
    ];
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

/// Translates a service with `client = yes`: plain TCP from clients, TLS to the servers.
fn client(section: &Section, service: &mut Service, backend: &mut Backend, dir: Option<&Path>) {
    let mut tls = Table::default();
    common(section, &mut tls);
    if let Some(cert) = section.one("cert") {
        tls.set("cert", Value::text(&cert.value));
        if let Some(key) = section.one("key").filter(|key| key.value != cert.value) {
            tls.set("key", Value::text(&key.value));
        }
    }
    let host = section.one("checkhost").or(section.one("checkip"));
    let verify = Verify::of(section);
    let ca = section.one("cafile");
    let is_optional = section
        .one("verify")
        .is_some_and(|option| option.value == "1");
    let (true, Some(ca)) = (verify != Verify::None && !is_optional, ca) else {
        return refuse(
            section,
            backend,
            "TLS without verification of the server is not supported",
        );
    };
    if verify == Verify::Chain || verify == (Verify::Peer { chain: true }) {
        tls.set("ca", Value::text(&ca.value));
        if let Some(crl) = section.one("crlfile") {
            tls.set("crl", Value::text(&crl.value));
        }
    }
    if verify != Verify::Chain {
        let path = dir.unwrap_or(Path::new("")).join(&ca.value);
        match pem::key_pins(&path).filter(|pins| !pins.is_empty()) {
            Some(pins) => tls.set("pin", Value::strings(&pins)),
            None => {
                return refuse(
                    section,
                    backend,
                    "`verifyPeer` needs a `CAfile` that can be read",
                );
            }
        }
    }
    match host {
        Some(host) => tls.set("server_name", Value::text(&host.value)),
        None if tls.get("pin").is_none() => tls.note(section.place.left_out(
            "the name of a server is always verified; without `checkHost` it is the host of \
             `connect`",
        )),
        None => {}
    }
    if section.all("checkhost").len() > 1 {
        tls.note(
            section
                .place
                .left_out("one name is verified: the last `checkHost`"),
        );
    }
    backend.tls = Some(tls);
    protocol(section, service, backend);
}

fn refuse(section: &Section, backend: &mut Backend, reason: &str) {
    backend.refused.push(reason.to_owned());
    backend.table.note(section.place.left_out(reason));
}

/// Versions, cipher suites and groups.
fn common(section: &Section, tls: &mut Table) {
    let only = section.one("sslversion");
    let min = section.one("sslversionmin").or(only);
    if min.is_some_and(|option| option.value == "TLSv1.3") {
        tls.set("min_version", Value::text("1.3"));
    }
    let no_tls12 = section
        .all("options")
        .iter()
        .any(|option| option.value == "NO_TLSv1.2");
    if no_tls12 {
        tls.set("min_version", Value::text("1.3"));
    }
    if let Some(option) = only.filter(|option| option.value == "TLSv1.2") {
        tls.note(
            option
                .place
                .left_out("the newest TLS version cannot be limited"),
        );
    }
    let mut suites: Vec<String> = Vec::new();
    for (name, is_tls12) in [("ciphersuites", false), ("ciphers", true)] {
        let Some(option) = section.one(name) else {
            continue;
        };
        let (known, unknown) = tls_names::ciphers(&option.value);
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            tls.note(
                option
                    .place
                    .left_out(format!("not supported as cipher suites: {unknown}")),
            );
        }
        if is_tls12 && suites.is_empty() && !known.is_empty() {
            suites.extend(tls_names::TLS13.map(str::to_owned));
        }
        suites.extend(known);
    }
    if !suites.is_empty() && section.one("ciphers").is_some() {
        tls.set(
            "ciphers",
            Value::list(suites),
        );
    }
    if let Some(option) = section.one("curves").or(section.one("curve")) {
        let (known, unknown) = tls_names::groups(&option.value);
        if !known.is_empty() {
            tls.set(
                "groups",
                Value::list(known),
            );
        }
        if !unknown.is_empty() {
            tls.note(
                option
                    .place
                    .left_out(format!("not supported: {}", unknown.join(", "))),
            );
        }
    }
}

/// `[HOST:]PORT` or a path.
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
    if !is_ip(&host) || port.parse::<u16>().is_err() {
        return Err(format!("{text:?} is not an IP address with a port number"));
    }
    Ok(format!("{host}:{port}"))
}

/// Parses `[HOST:]PORT` or a path. The default host is 127.0.0.1.
fn target(text: &str) -> Option<String> {
    if text.starts_with('/') {
        return Some(format!("unix:{text}"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Some(format!("{}:{port}", bracketed(host)))
}
