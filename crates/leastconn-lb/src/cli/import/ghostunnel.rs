//! Command lines of ghostunnel.

mod arguments;
mod client;
mod server;

use std::rc::Rc;

use super::{
    address::{is_host, is_ip, split_port},
    keystore,
    model::{Backend, Imported, Place, ServerLine, Service, Table, Value},
    names::Names,
    toml::{VARIABLE_START, readable},
    units,
};
use arguments::{Arguments, commands};

/// ghostunnel's defaults for `--connect-timeout` and `--shutdown-timeout`, in milliseconds.
const CONNECT_TIMEOUT: u64 = 10_000;
const SHUTDOWN_TIMEOUT: u64 = 300_000;

/// Imports a file with one or more command lines, such as a script or a systemd unit.
///
/// # Errors
/// If the file contains no ghostunnel command line.
pub(crate) fn import(file: &Rc<str>, text: &str) -> Result<Imported, String> {
    let commands = commands(file, text)?;
    if commands.is_empty() {
        return Err(format!(
            "{file}: there is no `ghostunnel server` or `ghostunnel client` command"
        ));
    }
    let mut imported = Imported::default();
    let mut names = Names::default();
    for (place, words) in commands {
        let is_server = words.first().is_some_and(|word| word == "server");
        let arguments = Arguments::parse(&words[1..], &place);
        process(&arguments, &mut imported);
        let name = names.unique(if is_server { "server" } else { "client" });
        let mut tunnel = Tunnel::new(&name, &arguments);
        if is_server {
            server::server(&mut tunnel, &arguments);
        } else {
            client::client(&mut tunnel, &arguments);
        }
        imported.services.push(tunnel.service);
        imported.backends.push(tunnel.backend);
    }
    Ok(imported)
}

/// A listener and its upstream.
struct Tunnel {
    place: Place,
    service: Service,
    backend: Backend,
}

impl Tunnel {
    fn new(name: &str, arguments: &Arguments) -> Self {
        let place = arguments.place.clone();
        let mut service = Service {
            name: name.to_owned(),
            place: Some(place.clone()),
            home: Some(name.to_owned()),
            ..Service::default()
        };
        service.table.notes.extend(arguments.left_out.clone());
        match arguments.one("listen").map(listen) {
            Some(Ok(address)) => service.binds.push(address),
            Some(Err(reason)) => {
                let note = arguments.flag("listen").left_out(reason);
                service.table.note(note);
            }
            None => service.table.note(place.left_out("there is no `--listen`")),
        }
        service.table.note(place.remark(
            "ghostunnel never closes idle connections; here `idle_timeout` does, after 1h by default",
        ));
        if let Some(ms) = arguments.duration("max-conn-lifetime").filter(|ms| *ms > 0) {
            service.table.set("max_lifetime", units::duration(ms));
        }
        if let Some(ms) = arguments.duration("close-timeout").filter(|ms| *ms > 0) {
            service.table.set("half_close_timeout", units::duration(ms));
        }
        let connect = arguments
            .duration("connect-timeout")
            .unwrap_or(CONNECT_TIMEOUT);
        service
            .table
            .set("handshake_timeout", units::duration(connect));
        let mut backend = Backend {
            name: name.to_owned(),
            place: Some(place.clone()),
            ..Backend::default()
        };
        backend
            .table
            .set("connect_timeout", units::duration(connect));
        backend.table.set("retries", Value::Integer(0));
        backend.table.disable_health_checks();
        match arguments.one("target") {
            Some(target) if is_target(target) => {
                let mut server = Table::default();
                server.set("address", Value::text(target));
                backend.servers.push(ServerLine::Server {
                    name: "target".to_owned(),
                    table: server,
                });
            }
            _ => service
                .table
                .note(place.left_out("there is no `--target` with host and port")),
        }
        Self {
            place,
            service,
            backend,
        }
    }

    /// Refuses all clients of the tunnel.
    fn refuse(&mut self, reason: &str) {
        self.service.table.note(self.place.left_out(reason));
        self.service.refused.push(reason.to_owned());
    }
}

/// Translates options of the process.
fn process(arguments: &Arguments, imported: &mut Imported) {
    let shutdown = arguments
        .duration("shutdown-timeout")
        .unwrap_or(SHUTDOWN_TIMEOUT);
    imported
        .process
        .set("drain_timeout", units::duration(shutdown));
    if let Some(limit) = arguments
        .one("max-concurrent-conns")
        .and_then(|text| text.parse().ok())
        && limit > 0
    {
        imported
            .process
            .set("max_connections", Value::Integer(limit));
    }
    if let Some(status) = arguments.one("status") {
        status_address(status, &arguments.flag("status"), &mut imported.admin);
    }
}

/// Uses the address of `--status` in `[admin]`.
fn status_address(status: &str, place: &Place, admin: &mut Table) {
    let address = status
        .strip_prefix("http://")
        .or(status.strip_prefix("https://"))
        .unwrap_or(status);
    let note = match listen(address) {
        Ok(address) if !address.starts_with("unix:") => {
            admin.set("bind", Value::text(address));
            place.remark("the address is in `[admin]`, which has HTTP without TLS")
        }
        _ => place.remark("for status and metrics, set `bind` in `[admin]`"),
    };
    admin.note(note);
}

/// Translates `--cert` and `--key`, or `--keystore`.
fn certificate(arguments: &Arguments, tls: &mut Table) -> Result<(), &'static str> {
    if let Some(cert) = arguments.one("cert") {
        let Some(key) = arguments.one("key") else {
            return Err("ghostunnel does not start with `--cert` without `--key`");
        };
        tls.set("cert", Value::text(cert));
        tls.set("key", Value::text(key));
        return Ok(());
    }
    let Some(file) = arguments.one("keystore") else {
        return Err("the certificate is not a file: set `tls`");
    };
    let (stem, ending) = keystore::parts(file);
    let has_password = arguments
        .one("storepass")
        .or(arguments.one("keystorepass"))
        .is_some();
    let place = arguments.flag("keystore");
    match ending.as_str() {
        "jks" | "jceks" => {
            let (p12, pem) = (format!("{stem}.p12"), format!("{stem}.pem"));
            let to_p12 = format!(
                "keytool -importkeystore -srckeystore {} -destkeystore {} -deststoretype PKCS12",
                keystore::quoted(&readable(file)),
                keystore::quoted(&readable(&p12))
            );
            let commands = vec![to_p12, keystore::to_pem(&readable(&p12), &readable(&pem))];
            tls.note(keystore::converted(&place, &pem, commands));
            tls.set("cert", Value::text(pem));
        }
        "pem" | "crt" | "key" if has_password => {
            let key = format!("{stem}-decrypted.key");
            let command = format!(
                "openssl pkey -in {} -out {}",
                keystore::quoted(&readable(file)),
                keystore::quoted(&readable(&key))
            );
            let reason = format!(
                "the private key must not be encrypted, so `key` is {}: before `check`, run \
                 `{command}`",
                readable(&key)
            );
            tls.note(place.differs(reason).with_commands(vec![command]));
            tls.set("cert", Value::text(file));
            tls.set("key", Value::text(key));
        }
        _ if has_password || keystore::is_pkcs12(file) => keystore::pkcs12(file, &place, tls),
        _ => tls.set("cert", Value::text(file)),
    }
    Ok(())
}

fn min_version(arguments: &Arguments, tls: &mut Table) {
    let version = arguments
        .one("tls-min-version")
        .or(arguments.one("min-tls-version"));
    if version.is_some_and(|version| version.contains("1.3")) {
        tls.set("min_version", Value::text("1.3"));
    }
}

/// Whether an address has a host and a port, or is a UNIX socket.
fn is_target(address: &str) -> bool {
    let has_port = |(host, port): (&str, &str)| {
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        is_port && is_host(host) && (host.starts_with('[') || !host.contains(':'))
    };
    address.starts_with("unix:")
        || address.contains(VARIABLE_START)
        || split_port(address).is_some_and(has_port)
}

fn listen(address: &str) -> Result<String, String> {
    if address.starts_with("unix:") {
        return Ok(address.to_owned());
    }
    if address.starts_with("systemd:") || address.starts_with("launchd:") {
        return Err("sockets of the service manager are not used: set `bind`".to_owned());
    }
    if address.contains(VARIABLE_START) {
        return Ok(address.to_owned());
    }
    let (host, port) = address
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .ok_or_else(|| format!("{address:?} has no port number"))?;
    let host = match host {
        "localhost" => "127.0.0.1",
        "" => "0.0.0.0",
        host => host,
    };
    if !is_ip(host) {
        return Err(format!(
            "{address:?} is not an IP address; names are not resolved for listeners"
        ));
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests;
