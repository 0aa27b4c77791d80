//! `bind` lines.

use super::{
    super::{
        address::{bracketed, is_ip, is_variable, split_port, with_ports},
        model::{Note, Table, Value},
        toml::VARIABLE_START,
    },
    lexer::Line,
    tls::{self, Bases},
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
}

impl Bind {
    /// Whether both addresses can belong to one listener.
    pub(crate) fn same_settings(&self, other: &Self) -> bool {
        self.tls.as_ref().map(|tls| &tls.keys) == other.tls.as_ref().map(|tls| &tls.keys)
            && self.certificates == other.certificates
            && self.table.keys == other.table.keys
            && self.refused == other.refused
    }
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
    let mut rest = line.words.get(2..).unwrap_or(&[]);
    while let Some(word) = rest.first() {
        let value = rest.get(1).map_or("", String::as_str);
        let taken = match word.as_str() {
            "ssl" => {
                is_tls = true;
                1
            }
            "crt" if tls.get("cert").is_some() => {
                tls.note(place.left_out("a listener has one certificate: the first is used"));
                2
            }
            "crt" => {
                tls::certificate(&mut tls, value, bases);
                2
            }
            "crt-list" => {
                tls.note(place.left_out("a listener has one certificate: set `cert`"));
                2
            }
            "ca-file" => {
                has_ca = true;
                tls.set("client_ca", Value::text(bases.ca(value)));
                2
            }
            "ca-verify-file" => {
                bind.refused
                    .push("`ca-verify-file` has no equivalent".to_owned());
                tls.note(place.left_out("authorities that are trusted but not announced"));
                2
            }
            "verify" => {
                verify = match value {
                    "required" => "required",
                    "optional" => "optional",
                    _ => "none",
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
                bind.table
                    .set("bind_mode", Value::text(format!("0{value}")));
                2
            }
            "strict-sni" => {
                bind.refused
                    .push("`strict-sni` has no equivalent".to_owned());
                tls.note(
                    place.left_out("server names (SNI) are not compared with the certificate"),
                );
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
            "interface" => {
                bind.refused
                    .push("connections of all interfaces would be accepted".to_owned());
                bind.table
                    .note(place.left_out("a listener cannot be bound to an interface"));
                2
            }
            "v4v6"
            | "v6only"
            | "defer-accept"
            | "tfo"
            | "transparent"
            | "generate-certificates" => {
                if matches!(
                    word.as_str(),
                    "transparent" | "generate-certificates" | "v6only"
                ) {
                    bind.table
                        .note(place.left_out(format!("{word:?} has no equivalent")));
                }
                1
            }
            "name" | "id" | "backlog" | "process" | "thread" | "level" | "nice" | "user"
            | "group" | "uid" | "gid" | "mss" | "tcp-ut" | "namespace" | "proto" | "shards"
            | "severity-output" | "tls-ticket-keys" | "tcp-md5sig" | "quic-cc-algo"
            | "expose-fd" => {
                if matches!(
                    word.as_str(),
                    "user" | "group" | "uid" | "gid" | "namespace" | "mss" | "tcp-ut"
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
    if is_tls {
        finish_tls(&mut bind, tls, line, verify, has_ca);
    }
    bind
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
                    place.left_out(
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
        ("quic4@", "QUIC"),
        ("quic6@", "QUIC"),
        ("rhttp@", "reverse HTTP"),
    ] {
        if text.starts_with(prefix) {
            return Err(format!("{what} are not supported as addresses"));
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
        host if host.contains(VARIABLE_START) => host.to_owned(),
        host => bracketed(host),
    };
    if !is_ip(&host) && !host.contains(VARIABLE_START) {
        return Err(format!(
            "{host:?} is not an IP address; names are not resolved for listeners"
        ));
    }
    if port.contains(VARIABLE_START) || !port.contains('-') {
        return Ok(vec![format!("{host}:{port}")]);
    }
    with_ports(&host, port).ok_or_else(|| format!("the port range {port:?} is too large"))
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
