//! `bind` lines.

use std::path::Path;

use super::{
    super::{
        access::Key,
        address::{bracketed, is_ip, is_variable, split_port, with_ports},
        model::{Note, Place, Table, Value},
        pem,
        toml::VARIABLE_START,
        values::is_accepted,
    },
    lexer::Line,
    tls::{self, Bases, certificates},
};

/// A listening address with its options.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bind {
    pub(crate) addresses: Vec<String>,
    pub(crate) tls: Option<Table>,
    pub(crate) certificates: bool,
    /// Keys of the listener.
    pub(crate) table: Table,
    pub(crate) refused: Vec<String>,
    /// With `strict-sni`: the only server names that are accepted. Otherwise, all are.
    pub(crate) names: Vec<String>,
}

impl Bind {
    /// Whether both addresses can belong to one listener.
    pub(crate) fn same_settings(&self, other: &Self) -> bool {
        self.tls.as_ref().map(|tls| &tls.keys) == other.tls.as_ref().map(|tls| &tls.keys)
            && self.certificates == other.certificates
            && self.table.keys == other.table.keys
            && self.refused == other.refused
            && self.names == other.names
    }

    /// Returns the ports of the addresses. Empty if one of them is not known.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let ports = self.addresses.iter().map(|address| port(address));
        let mut ports: Vec<_> = ports.collect::<Option<_>>().unwrap_or_default();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Returns one copy for each port. The copies have the notes of the first one.
    pub(crate) fn by_port(&self) -> Vec<Self> {
        let mut binds: Vec<Self> = Vec::new();
        for address in &self.addresses {
            let found = binds
                .iter_mut()
                .find(|bind| bind.ports() == port(address).as_slice());
            match found {
                Some(bind) => bind.addresses.push(address.clone()),
                None => binds.push(Self {
                    addresses: vec![address.clone()],
                    ..self.clone()
                }),
            }
        }
        if binds.is_empty() {
            binds.push(self.clone());
        }
        binds
    }
}

/// Returns the port of an address.
pub(crate) fn port(address: &str) -> Option<u16> {
    let (_, port) = split_port(address).filter(|_| !address.starts_with("unix:"))?;
    port.parse().ok()
}

pub(crate) fn bind(line: &Line, bases: &Bases) -> Bind {
    let mut bind = Bind::default();
    let place = &line.place;
    for text in line.word(1).split(',') {
        match addresses(text) {
            Ok(list) => bind.addresses.extend(list),
            Err(reason) => bind.table.note(place.left_out(reason)),
        }
    }
    let mut tls = Table::default();
    let mut is_tls = false;
    let mut verify = "none";
    let mut has_ca = false;
    let mut verify_file = None;
    let mut is_strict = false;
    let mut rest = line.words.get(2..).unwrap_or(&[]);
    while let Some(word) = rest.first() {
        let value = rest.get(1).map_or("", String::as_str);
        let taken = match word.as_str() {
            "crt" | "default-crt" | "crt-list" | "ca-file" | "ca-verify-file"
                if value.is_empty() =>
            {
                tls.note(place.left_out(format!("{word:?} has no value")));
                1
            }
            "ssl" => {
                is_tls = true;
                1
            }
            "crt" if tls.get("cert").is_some() => {
                tls.note(place.left_out(ONE_CERTIFICATE));
                2
            }
            "crt" | "default-crt" => {
                let files = certificates::files(value, bases);
                if files.is_empty() {
                    tls.note(place.left_out(format!(
                        "the directory {value:?} has no certificate, or cannot be read here: import on \
                         the host that has it"
                    )));
                }
                if files.len() > 1 {
                    tls.note(place.left_out(ONE_CERTIFICATE));
                }
                if let Some(file) = files.first()
                    && let Err(reason) = tls::certificate(&mut tls, file, bases)
                {
                    tls.note(place.left_out(reason));
                }
                2
            }
            "crt-list" => {
                list(&mut bind, &mut tls, value, bases, place);
                2
            }
            "ca-file" if value.starts_with('@') => {
                tls.note(place.left_out("the system's CA certificates are never used"));
                2
            }
            "ca-file" => {
                has_ca = true;
                tls.set("client_ca", Value::text(bases.ca(value)));
                2
            }
            "ca-verify-file" => {
                verify_file = Some(bases.ca(value));
                2
            }
            "verify" => {
                verify = match value {
                    "required" => "required",
                    "optional" => "optional",
                    "none" => "none",
                    _ => {
                        bind.refused
                            .push("the value of `verify` is not known".to_owned());
                        tls.note(place.left_out("the value of `verify` is not known"));
                        "none"
                    }
                };
                2
            }
            "accept-proxy" => {
                bind.table.set("proxy_protocol", Value::text("required"));
                1
            }
            "accept-netscaler-cip" => {
                bind.refused
                    .push("the NetScaler header is not supported".to_owned());
                bind.table
                    .note(place.left_out("the NetScaler header is not supported"));
                2
            }
            "mode" => {
                let is_mode = u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o777);
                if is_mode {
                    let mode = Value::text(format!("0{value}"));
                    bind.table.set("bind_mode", mode);
                } else {
                    bind.table.note(place.left_out("is not a file mode"));
                }
                2
            }
            "strict-sni" => {
                is_strict = true;
                1
            }
            "crt-ignore-err" | "ca-ignore-err" => {
                tls.note(place.left_out("certificate errors are never ignored"));
                2
            }
            "maxconn" => {
                bind.table
                    .note(place.left_out("connections are limited per process and client"));
                2
            }
            "interface" if value == "lo" && bind.addresses.iter().all(|a| is_loopback(a)) => 2,
            "interface" => {
                bind.refused
                    .push("connections of all interfaces would be accepted".to_owned());
                bind.table
                    .note(place.left_out("a listener cannot be bound to an interface"));
                2
            }
            "v6only" => {
                bind.table.note(place.left_out(V6_ONLY));
                1
            }
            "v4v6"
            | "defer-accept"
            | "tfo"
            | "transparent"
            | "no-ca-names"
            | "no-alpn"
            | "tls-tickets"
            | "quic-force-retry"
            | "generate-certificates" => {
                if matches!(word.as_str(), "transparent" | "generate-certificates") {
                    bind.table
                        .note(place.left_out(format!("{word:?} has no equivalent")));
                }
                1
            }
            "name" | "id" | "backlog" | "process" | "thread" | "level" | "nice" | "user"
            | "group" | "uid" | "gid" | "mss" | "tcp-ut" | "namespace" | "proto" | "shards"
            | "severity-output" | "tls-ticket-keys" | "tcp-md5sig" | "quic-cc-algo"
            | "expose-fd" | "ca-sign-file" | "ca-sign-pass" | "ocsp-update" | "guid-prefix"
            | "label" | "cc" | "sigalgs" | "client-sigalgs" => {
                if matches!(
                    word.as_str(),
                    "user"
                        | "group"
                        | "uid"
                        | "gid"
                        | "namespace"
                        | "mss"
                        | "tcp-ut"
                        | "sigalgs"
                        | "client-sigalgs"
                ) {
                    bind.table
                        .note(place.left_out(format!("{word:?} has no equivalent")));
                }
                2
            }
            _ => match tls::common(&mut tls, rest, bases, place) {
                Some(taken) => taken,
                None => {
                    bind.table.note(unknown(line, word));
                    bind.refused
                        .push(format!("the option {word:?} is not known"));
                    1
                }
            },
        };
        rest = rest.get(taken..).unwrap_or(&[]);
    }
    // Certificates of clients must end at an authority of `ca-verify-file`.
    if let Some(file) = verify_file {
        if has_ca {
            tls.note(place.differs(
                "only the authorities of `ca-verify-file` are trusted: clients must send their \
                 intermediate certificates",
            ));
        }
        has_ca = true;
        tls.set("client_ca", Value::text(file));
    }
    if is_strict {
        strict_names(&mut bind, &mut tls, bases, place);
    }
    if is_tls {
        finish_tls(&mut bind, tls, line, verify, has_ca);
    }
    bind
}

/// Why `v6only` has no equivalent without a listener for IPv4.
pub(crate) const V6_ONLY: &str = "an IPv6 wildcard address also accepts IPv4, unless a listener has the \
    same port of 0.0.0.0";

const ONE_CERTIFICATE: &str = "a listener has one certificate: the first is used";

/// Restricts the clients to the names of the certificate.
fn strict_names(bind: &mut Bind, tls: &mut Table, bases: &Bases, place: &Place) {
    let names = match tls.get("cert") {
        Some(Value::Text(cert)) => {
            let dir = bases.dir.as_deref().unwrap_or(Path::new(""));
            pem::names(&dir.join(cert))
        }
        _ => Vec::new(),
    };
    let names = names.into_iter().filter(|name| is_accepted(Key::Sni, name));
    bind.names = names.collect();
    if bind.names.is_empty() {
        bind.refused
            .push("the names for `strict-sni` cannot be read from the certificate".to_owned());
        tls.note(place.left_out(
            "the certificate cannot be read here, so its names for `strict-sni` are not known: import \
             on the host that has it",
        ));
    } else {
        tls.note(place.remark(
            "`strict-sni`: `routes` have the names in the certificate when it was imported, and \
             `upstream = false` refuses other names",
        ));
    }
}

/// Translates `crt-list`: the first certificate, if no line has TLS settings of its own.
fn list(bind: &mut Bind, tls: &mut Table, file: &str, bases: &Bases, place: &Place) {
    let Some(list) = certificates::list(file, bases) else {
        tls.note(place.left_out("a listener has one certificate: set `cert`"));
        return;
    };
    let has_verification = |options: &String| {
        ["verify", "ca-file", "crl-file", "ca-verify-file"]
            .iter()
            .any(|word| options.split_whitespace().any(|option| option == *word))
    };
    if list.options.iter().any(has_verification) {
        bind.refused
            .push(format!("{file:?} has certificates with their own `verify`"));
        tls.note(place.left_out("clients are verified in the same way for all server names"));
    } else if !list.options.is_empty() {
        tls.note(place.left_out("options of single certificates have no equivalent"));
    }
    if list.files.len() > 1 || tls.get("cert").is_some() {
        tls.note(place.left_out(ONE_CERTIFICATE));
    }
    if let Some(file) = list.files.first().filter(|_| tls.get("cert").is_none())
        && let Err(reason) = tls::certificate(tls, file, bases)
    {
        tls.note(place.left_out(reason));
    }
}

fn is_loopback(address: &str) -> bool {
    let host = split_port(address).map_or(address, |(host, _)| host);
    host.starts_with("127.") || host == "[::1]"
}

fn unknown(line: &Line, word: &str) -> Note {
    line.place
        .left_out(format!("the option {word:?} is not known"))
}

fn finish_tls(bind: &mut Bind, mut tls: Table, line: &Line, verify: &str, has_ca: bool) {
    let place = &line.place;
    tls::complete_ciphers(&mut tls);
    match verify {
        "none" => {
            tls.remove("client_ca");
            tls.remove("crl");
            tls.set("client_auth", Value::text("none"));
        }
        _ if !has_ca => {
            bind.refused
                .push("there is no `ca-file` to verify clients".to_owned());
            tls.note(place.left_out("without `ca-file`, client certificates cannot be verified"));
            tls.set("client_auth", Value::text("none"));
        }
        verify => {
            bind.certificates = true;
            if verify == "optional" {
                tls.note(
                    place.differs(
                        "client certificates are required: clients without one are refused",
                    ),
                );
            }
        }
    }
    if tls.get("cert").is_none() {
        bind.table.notes.append(&mut tls.notes);
        bind.table
            .note(place.left_out("the listener has no certificate"));
        bind.addresses.clear();
        return;
    }
    bind.tls = Some(tls);
}

/// Parses `ADDRESS:PORT[-PORT]` or a UNIX socket.
fn addresses(text: &str) -> Result<Vec<String>, String> {
    if let Some(path) = text
        .strip_prefix("unix@")
        .or(text.starts_with('/').then_some(text))
    {
        return Ok(vec![format!("unix:{path}")]);
    }
    for (prefix, what) in [
        ("abns@", "abstract UNIX sockets"),
        ("fd@", "inherited file descriptors"),
        ("sockpair@", "socket pairs"),
        ("udp@", "UDP"),
        ("udp4@", "UDP"),
        ("udp6@", "UDP"),
        ("quic4@", "QUIC"),
        ("quic6@", "QUIC"),
        ("rhttp@", "reverse HTTP"),
        ("rev@", "reverse HTTP"),
    ] {
        if text.starts_with(prefix) {
            return Err(format!("not supported for listeners: {what}"));
        }
    }
    let (is_v6, text) = match (text.strip_prefix("ipv6@"), text.strip_prefix("ipv4@")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => (false, text),
    };
    if is_variable(text) {
        return Ok(vec![text.to_owned()]);
    }
    let (host, port) =
        split_port(text).ok_or_else(|| format!("the address {text:?} has no port"))?;
    let host = match host {
        "" | "*" if is_v6 => "[::]".to_owned(),
        "" | "*" => "0.0.0.0".to_owned(),
        "::" => "[::]".to_owned(),
        "localhost" => "127.0.0.1".to_owned(),
        host if host.contains(VARIABLE_START) => host.to_owned(),
        host => bracketed(host),
    };
    if !is_ip(&host) && !host.contains(VARIABLE_START) {
        return Err(format!(
            "{host:?} is not an IP address; names are not resolved for listeners"
        ));
    }
    if port.contains(VARIABLE_START) {
        return Ok(vec![format!("{host}:{port}")]);
    }
    with_ports(&host, port).ok_or_else(|| format!("the ports {port:?} are not supported"))
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn notations_of_addresses() {
        for (text, expected) in [
            (":443", vec!["0.0.0.0:443"]),
            ("*:443", vec!["0.0.0.0:443"]),
            ("10.0.0.1:443", vec!["10.0.0.1:443"]),
            (":::443", vec!["[::]:443"]),
            ("[::1]:443", vec!["[::1]:443"]),
            ("localhost:443", vec!["127.0.0.1:443"]),
            ("ipv6@:443", vec!["[::]:443"]),
            ("ipv4@10.0.0.1:443", vec!["10.0.0.1:443"]),
            (":80-82", vec!["0.0.0.0:80", "0.0.0.0:81", "0.0.0.0:82"]),
            ("unix@/run/x.sock", vec!["unix:/run/x.sock"]),
            ("/run/x.sock", vec!["unix:/run/x.sock"]),
            (
                "\u{1}IP:-::\u{2}:\u{1}PORT:-443\u{2}",
                vec!["\u{1}IP:-::\u{2}:\u{1}PORT:-443\u{2}"],
            ),
            ("\u{1}BIND\u{2}", vec!["\u{1}BIND\u{2}"]),
        ] {
            assert_eq!(addresses(text).unwrap(), expected, "{text}");
        }
        for text in ["abns@x", "fd@3", "web:443", "10.0.0.1", ":1-60000"] {
            assert!(addresses(text).is_err(), "{text}");
        }
    }
}
