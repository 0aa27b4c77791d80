//! `server`, `default-server` and `server-template` lines.

mod address;

use super::{
    super::{
        address::split_port,
        model::{Note, Place, Table, Value},
        toml::inline,
        units,
    },
    lexer::Line,
    tls::{self, Bases},
};

/// HAProxy's default interval between two checks, in milliseconds.
pub(crate) const INTERVAL: u64 = 2_000;

/// Largest value of `discovery.max`.
const LARGEST_TEMPLATE: u64 = 65_535;

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
    pub(crate) agent: Option<Agent>,
    /// The `resolvers` section of a server that is looked up in DNS.
    pub(crate) resolvers: Option<String>,
    /// `resolve-prefer`, as a value of `family`.
    pub(crate) family: Option<&'static str>,
    /// Number of servers of a `server-template`.
    pub(crate) template: Option<u64>,
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
    /// `check-ssl` on a server without `ssl`, or `port` on a server with `ssl`. Checks of an
    /// upstream use TLS exactly if its connections do.
    pub(crate) other_tls: bool,
}

/// Settings of `agent-check`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Agent {
    pub(crate) port: Option<u64>,
    /// Milliseconds.
    pub(crate) interval: Option<u64>,
    pub(crate) send: Option<String>,
}

/// Parses a `server` line. `defaults` contains the `default-server` lines. `resolvers` tells whether
/// a `resolvers` section has name servers. `port` is the port that all clients connect to: it is also
/// that of servers without a port.
pub(crate) fn server(
    line: &Line,
    defaults: &[Line],
    bases: &Bases,
    resolvers: &dyn Fn(&str) -> bool,
    port: Option<u16>,
) -> Server {
    let mut server = Server {
        name: line.word(1).to_owned(),
        ..Server::default()
    };
    let mut parser = Parser {
        place: &line.place,
        tls: Table::default(),
        is_tls: false,
        verify_none: false,
        lacks_key: None,
        names: false,
        agent: Agent::default(),
        has_agent: false,
        check_ssl: false,
    };
    let defaults = defaults.iter().map(|line| (line, 1));
    for (line, from) in defaults.chain([(line, 3)]) {
        parser.place = &line.place;
        let mut rest = line.words.get(from..).unwrap_or(&[]);
        while !rest.is_empty() {
            let taken = parser.option(&mut server, rest, bases);
            rest = rest.get(taken..).unwrap_or(&[]);
        }
    }
    address::set(&mut server, line, resolvers, port);
    parser.finish(&mut server);
    server
}

/// Formats milliseconds as in the configuration.
fn time(ms: u64) -> String {
    match units::duration(ms) {
        Value::Text(text) => text,
        _ => String::new(),
    }
}

impl Checks {
    /// Formats the settings in HAProxy's notation, with its defaults.
    pub(crate) fn shown(&self) -> String {
        let port = self.port.map(|port| format!(" port {port}"));
        format!(
            "\"inter {} rise {} fall {}{}\"",
            time(self.interval.unwrap_or(INTERVAL)),
            self.rise.unwrap_or(2),
            self.fall.unwrap_or(3),
            port.unwrap_or_default()
        )
    }
}

impl Agent {
    pub(crate) fn shown(&self) -> String {
        let port = self.port.map(|port| format!(" agent-port {port}"));
        let interval = self.interval.map(|ms| format!(" agent-inter {}", time(ms)));
        let send = self
            .send
            .as_ref()
            .map(|text| format!(" agent-send {text:?}"));
        let options = [port, interval, send].map(Option::unwrap_or_default);
        format!("\"agent-check{}\"", options.concat())
    }
}

impl Server {
    /// Formats how connections to the server start.
    pub(crate) fn shown_connection(&self) -> String {
        let tls = match &self.tls {
            Some(tls) => format!("tls = {}", inline(&Value::Table(tls.keys.clone()))),
            None if self.refused.is_some() => "TLS without verification".to_owned(),
            None => "no TLS".to_owned(),
        };
        let header = self.proxy_protocol.unwrap_or("off");
        format!("{tls} and proxy_protocol = \"{header}\"")
    }

    /// Formats `observe` and `slowstart` in HAProxy's notation.
    pub(crate) fn shown_ejection(&self) -> String {
        let observe = match self.observe {
            Some(errors) => format!("observe layer4 error-limit {errors}"),
            None => "no observe".to_owned(),
        };
        let slow_start = self.slow_start.map_or("0s".to_owned(), time);
        format!("\"{observe} slowstart {slow_start}\"")
    }
}

struct Parser<'a> {
    place: &'a Place,
    tls: Table,
    is_tls: bool,
    verify_none: bool,
    /// Why the client certificate cannot be used.
    lacks_key: Option<String>,
    /// Whether the server's name is verified.
    names: bool,
    agent: Agent,
    has_agent: bool,
    check_ssl: bool,
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
            "check-ssl" => self.check_ssl = true,
            "no-check-ssl" => self.check_ssl = false,
            "agent-check" => self.has_agent = true,
            "no-agent-check" => self.has_agent = false,
            "check-send-proxy" | "no-tfo" | "tfo" | "non-stick" | "stick" | "check-reuse-pool" => {}
            "check-via-socks4" => {
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
            "ca-file" | "crt" | "verifyhost" if value.is_empty() => {
                let reason = format!("{word:?} has no value");
                server.notes.push(place.left_out(reason));
            }
            "ca-file" => {
                self.tls.set("ca", Value::text(bases.ca(value)));
                return 2;
            }
            "crt" => {
                if let Err(reason) = tls::certificate(&mut self.tls, value, bases) {
                    self.lacks_key = Some(reason);
                }
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
            "agent-port" => {
                self.agent.port = number();
                return 2;
            }
            "agent-inter" => {
                self.agent.interval = units::milliseconds(value, 1);
                return 2;
            }
            "agent-send" => {
                self.agent.send = Some(value.to_owned());
                return 2;
            }
            "resolvers" => {
                server.resolvers = Some(value.to_owned());
                return 2;
            }
            "resolve-prefer" => {
                server.family = match value {
                    "ipv4" => Some("v4"),
                    "ipv6" => Some("v6"),
                    _ => None,
                };
                return 2;
            }
            "on-marked-down" | "on-marked-up" => {
                server.notes.push(place.left_out(
                    "open connections stay open when a server goes down or another one comes up",
                ));
                return 2;
            }
            "id" | "cookie" | "init-addr" | "resolve-net" | "resolve-opts" | "fastinter"
            | "downinter" | "log-proto" | "pool-max-conn" | "pool-purge-delay"
            | "pool-low-conn" | "max-reuse" | "proto" | "ws" | "tcp-ut" | "shard"
            | "log-bufsize" | "guid" | "init-state" | "pool-conn-name" => {
                if matches!(word, "fastinter" | "downinter" | "tcp-ut") {
                    server
                        .notes
                        .push(place.left_out(format!("{word:?} has no equivalent")));
                }
                return 2;
            }
            "minconn"
            | "addr"
            | "source"
            | "on-error"
            | "agent-addr"
            | "track"
            | "redir"
            | "namespace"
            | "usesrc"
            | "interface"
            | "sigalgs"
            | "client-sigalgs"
            | "hash-key"
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
            word if word.starts_with("set-proxy-v2-tlv-fmt(") => {
                server
                    .notes
                    .push(place.left_out(format!("{word:?} has no equivalent")));
                return 2;
            }
            "sni-auto" | "no-sni-auto" | "check-sni-auto" | "no-check-sni-auto"
            | "no-verifyhost" => {}
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

    fn finish(mut self, server: &mut Server) {
        if self.has_agent {
            match self.agent.port {
                Some(_) => server.agent = Some(self.agent),
                None => server
                    .notes
                    .push(self.place.left_out("`agent-check` needs an `agent-port`")),
            }
        }
        let has_port = server.checks.port.is_some();
        let checks_tls = self.check_ssl || (self.is_tls && !has_port);
        server.checks.other_tls = server.check && checks_tls != self.is_tls;
        tls::complete_ciphers(&mut self.tls);
        if !self.is_tls {
            return;
        }
        if let Some(reason) = self.lacks_key {
            server.notes.push(self.place.left_out(&reason));
            server.refused = Some(reason);
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
            let host = match server.table.get("address") {
                Some(Value::Text(address)) => split_port(address).map(|(host, _)| host.to_owned()),
                _ => None,
            };
            // Without `server_name`, each server must have the name of its own address.
            if host.is_some_and(|host| tls.get("server_name") == Some(&Value::Text(host))) {
                tls.remove("server_name");
            }
            if !self.names {
                tls.note(self.place.differs(
                    "the name of a server is always verified; without `server_name` it is the \
                    host of its address",
                ));
            }
            server.tls = Some(tls);
        }
    }
}

/// Translates `server-template PREFIX NUMBER|RANGE FQDN[:PORT] …` to one entry for all servers.
pub(crate) fn template(
    line: &Line,
    defaults: &[Line],
    bases: &Bases,
    resolvers: &dyn Fn(&str) -> bool,
    port: Option<u16>,
) -> Server {
    let mut words = line.words.clone();
    let count = if words.len() > 2 {
        words.remove(2)
    } else {
        String::new()
    };
    let as_server = Line {
        place: line.place.clone(),
        words,
    };
    let mut server = server(&as_server, defaults, bases, resolvers, port);
    let (first, last) = count.split_once('-').unwrap_or(("1", &count));
    let numbers = first.parse::<u64>().ok().zip(last.parse::<u64>().ok());
    server.template = numbers.map(|(first, last)| {
        let number = last.saturating_sub(first).saturating_add(1);
        number.min(LARGEST_TEMPLATE)
    });
    server
}
