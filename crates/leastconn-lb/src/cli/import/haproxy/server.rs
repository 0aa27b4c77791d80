//! `server`, `default-server` and `server-template` lines.

use super::{
    super::{
        address::bracketed,
        model::{Note, Place, Table, Value},
        toml::VARIABLE_START,
        units,
    },
    lexer::Line,
    tls::{self, Bases},
};

/// A server. Some of its settings apply to all servers of an upstream in leastconn.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Server {
    pub(crate) name: String,
    /// Keys of the server.
    pub(crate) table: Table,
    pub(crate) tls: Option<Table>,
    /// Reason why no client may be sent to this server.
    pub(crate) refused: Option<String>,
    pub(crate) proxy_protocol: Option<&'static str>,
    pub(crate) check: bool,
    pub(crate) checks: Checks,
    /// `observe layer4`, with the number of errors that eject the server.
    pub(crate) observe: Option<u64>,
    /// Milliseconds.
    pub(crate) slow_start: Option<u64>,
    /// `maxqueue`; `None` if the queue is not limited.
    pub(crate) max_queue: Option<u64>,
    /// Set if the server is not used because its weight is 0 or it is disabled.
    pub(crate) left_out: Option<Note>,
    pub(crate) notes: Vec<Note>,
}

/// Settings of health checks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Checks {
    /// Milliseconds.
    pub(crate) interval: Option<u64>,
    pub(crate) rise: Option<u64>,
    pub(crate) fall: Option<u64>,
    pub(crate) port: Option<u64>,
}

/// Parses a `server` line. `defaults` contains the words of the `default-server` lines.
pub(crate) fn server(line: &Line, defaults: &[String], bases: &Bases) -> Server {
    let own = line.words.get(3..).unwrap_or(&[]);
    let mut server = Server {
        name: line.word(1).to_owned(),
        ..Server::default()
    };
    let words = [defaults, own].concat();
    let mut parser = Parser {
        place: &line.place,
        tls: Table::default(),
        is_tls: false,
        verify_none: false,
        names: false,
    };
    let mut rest = words.as_slice();
    while !rest.is_empty() {
        let taken = parser.option(&mut server, rest, bases);
        rest = rest.get(taken..).unwrap_or(&[]);
    }
    parser.address(&mut server, line.word(2));
    parser.finish(&mut server);
    server
}

struct Parser<'a> {
    place: &'a Place,
    tls: Table,
    is_tls: bool,
    verify_none: bool,
    /// Whether the server's name is verified.
    names: bool,
}

impl Parser<'_> {
    /// Returns the number of words that the option takes.
    fn option(&mut self, server: &mut Server, words: &[String], bases: &Bases) -> usize {
        let place = self.place;
        let word = words.first().map_or("", String::as_str);
        let value = words.get(1).map_or("", String::as_str);
        let number = || value.parse::<u64>().ok();
        match word {
            "check" => server.check = true,
            "no-check" => server.check = false,
            "backup" => server.table.set("backup", Value::Boolean(true)),
            "no-backup" => server.table.remove("backup"),
            "ssl" => self.is_tls = true,
            "no-ssl" => self.is_tls = false,
            "enabled" => server.left_out = None,
            "disabled" => {
                server.left_out = Some(
                    place.left_out("the server is disabled; add it and use `ctl maint` instead"),
                );
            }
            "send-proxy" => server.proxy_protocol = Some("v1"),
            "send-proxy-v2" => server.proxy_protocol = Some("v2"),
            "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => server.proxy_protocol = Some("v2-tls"),
            "no-send-proxy" | "no-send-proxy-v2" => server.proxy_protocol = None,
            "check-send-proxy" | "no-tfo" | "tfo" | "non-stick" | "no-agent-check" | "stick" => {}
            "check-ssl" | "check-via-socks4" | "agent-check" => {
                server
                    .notes
                    .push(place.left_out(format!("{word:?} has no equivalent")));
            }
            "weight" => {
                match number() {
                    Some(0) => {
                        server.left_out = Some(place.left_out(
                            "the weight is 0; add the server and use `ctl drain` instead",
                        ));
                    }
                    Some(weight) => server.table.set("weight", Value::Integer(weight)),
                    None => server
                        .notes
                        .push(place.left_out("the weight is not a number")),
                }
                return 2;
            }
            "maxconn" => {
                match number() {
                    Some(limit) => server.table.set("max_conns", Value::Integer(limit)),
                    None => server
                        .notes
                        .push(place.left_out("`maxconn` is not a number")),
                }
                return 2;
            }
            "maxqueue" => {
                match number() {
                    Some(limit) => server.max_queue = Some(limit).filter(|limit| *limit > 0),
                    None => server
                        .notes
                        .push(place.left_out("`maxqueue` is not a number")),
                }
                return 2;
            }
            "inter" => {
                server.checks.interval = units::milliseconds(value, 1);
                return 2;
            }
            "rise" => {
                server.checks.rise = number();
                return 2;
            }
            "fall" => {
                server.checks.fall = number();
                return 2;
            }
            "port" => {
                server.checks.port = number();
                return 2;
            }
            "slowstart" => {
                server.slow_start = units::milliseconds(value, 1);
                return 2;
            }
            "observe" => {
                if value == "layer4" {
                    server.observe.get_or_insert(10);
                } else {
                    server
                        .notes
                        .push(place.left_out("only failed connects are observed"));
                }
                return 2;
            }
            "error-limit" => {
                server.observe = number().or(server.observe);
                return 2;
            }
            "verify" => {
                self.verify_none = value == "none";
                return 2;
            }
            "ca-file" => {
                self.tls.set("ca", Value::text(bases.ca(value)));
                return 2;
            }
            "crt" => {
                tls::certificate(&mut self.tls, value, bases);
                return 2;
            }
            "verifyhost" => {
                self.names = true;
                self.tls.set("server_name", Value::text(value));
                return 2;
            }
            "sni" => {
                self.sni(server, value);
                return 2;
            }
            "proxy-v2-options" => {
                let options = value.split(',');
                let has_names = options
                    .clone()
                    .any(|option| option.starts_with("cert-") || option == "ssl");
                if has_names {
                    server.proxy_protocol = Some("v2-tls");
                }
                server.notes.push(place.remark(format!(
                    "the fields of the PROXY header are those of its version, not {value:?}"
                )));
                return 2;
            }
            "id" | "cookie" | "init-addr" | "resolve-prefer" | "resolve-net" | "fastinter"
            | "downinter" | "log-proto" | "pool-max-conn" | "pool-purge-delay"
            | "pool-low-conn" | "max-reuse" | "agent-inter" | "agent-port" | "agent-send"
            | "agent-addr" | "proto" | "ws" | "tcp-ut" | "shard" | "log-bufsize" => {
                if matches!(word, "fastinter" | "downinter" | "tcp-ut") {
                    server
                        .notes
                        .push(place.left_out(format!("{word:?} has no equivalent")));
                }
                return 2;
            }
            "resolvers" => {
                server
                    .notes
                    .push(place.remark(
                        "host names are resolved by the system's resolver when connecting",
                    ));
                return 2;
            }
            "minconn"
            | "addr"
            | "source"
            | "on-error"
            | "on-marked-down"
            | "on-marked-up"
            | "track"
            | "redir"
            | "namespace"
            | "usesrc"
            | "socks4"
            | "check-sni"
            | "check-alpn"
            | "check-proto"
            | "set-proxy-v2-tlv-fmt" => {
                server
                    .notes
                    .push(place.left_out(format!("{word:?} has no equivalent")));
                return 2;
            }
            _ => match tls::common(&mut self.tls, words, bases, place) {
                Some(taken) => return taken,
                None => {
                    server
                        .notes
                        .push(place.left_out(format!("the option {word:?} is not known")));
                }
            },
        }
        1
    }

    /// Translates the name that is sent as SNI. HAProxy also verifies this name.
    fn sni(&mut self, server: &mut Server, expression: &str) {
        match expression
            .strip_prefix("str(")
            .and_then(|rest| rest.strip_suffix(')'))
        {
            Some(name) => {
                if self.tls.get("server_name").is_none() {
                    self.tls.set("server_name", Value::text(name));
                }
                self.names = true;
            }
            None => server.notes.push(
                self.place
                    .left_out(format!("the SNI {expression:?} depends on the client")),
            ),
        }
    }

    fn address(&self, server: &mut Server, text: &str) {
        let text = text
            .strip_prefix("ipv4@")
            .or(text.strip_prefix("ipv6@"))
            .unwrap_or(text);
        if let Some(path) = text
            .strip_prefix("unix@")
            .or(text.starts_with('/').then_some(text))
        {
            server
                .table
                .set("address", Value::text(format!("unix:{path}")));
            return;
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let is_port =
            port.contains(VARIABLE_START) || port.parse::<u16>().is_ok_and(|port| port > 0);
        if host.is_empty() || !is_port || text.contains('@') {
            server.left_out = Some(
                self.place
                    .left_out(format!("the address {text:?} needs a host and a port")),
            );
            return;
        }
        let host = if host.contains(VARIABLE_START) {
            host.to_owned()
        } else {
            bracketed(host)
        };
        server
            .table
            .set("address", Value::text(format!("{host}:{port}")));
    }

    fn finish(self, server: &mut Server) {
        if !self.is_tls {
            return;
        }
        let ca = self.tls.get("ca");
        let system = matches!(ca, Some(Value::Text(ca)) if ca.starts_with('@'));
        if self.verify_none {
            server.refused = Some(
                "the source does not verify the servers, and TLS without \
                verification is not supported: set `tls`"
                    .to_owned(),
            );
            server.notes.push(
                self.place
                    .left_out("TLS without verification of the server"),
            );
        } else if ca.is_none() || system {
            server.refused =
                Some("the system's CA certificates are never used: set `tls`".to_owned());
            server.notes.push(
                self.place
                    .left_out("`ca-file` is missing, or names no file"),
            );
        } else {
            let mut tls = self.tls;
            if !self.names {
                tls.note(self.place.left_out(
                    "the name of a server is always verified; without `server_name` it is the \
                    host of its address",
                ));
            }
            server.tls = Some(tls);
        }
    }
}

/// Translates `server-template PREFIX NUMBER|RANGE FQDN[:PORT] …` to one server.
pub(crate) fn template(line: &Line, defaults: &[String], bases: &Bases) -> Server {
    let mut words = line.words.clone();
    if words.len() > 2 {
        words.remove(2);
    }
    let as_server = Line {
        place: line.place.clone(),
        words,
    };
    let mut server = server(&as_server, defaults, bases);
    server.notes.push(line.place.left_out(format!(
        "one server for the host name, which is resolved when connecting, instead of {} servers",
        line.word(2)
    )));
    server
}
