//! `frontend`, `backend` and `listen` sections.

mod back;
mod origins;

use std::collections::HashMap;

use super::{
    super::{
        model::{Backend, Note, Place, Table},
        units,
    },
    bind::{self, Bind},
    global,
    health::Health,
    lexer::Line,
    resolvers::Resolvers,
    rules::Rules,
    sections::Proxy,
    server::{self, Server},
    tls::Bases,
};

/// The part of a section that clients connect to.
#[derive(Debug, Default)]
pub(crate) struct Front {
    pub(crate) name: String,
    pub(crate) place: Option<Place>,
    pub(crate) binds: Vec<Bind>,
    pub(crate) table: Table,
    pub(crate) rules: Rules,
    pub(crate) timeouts: Timeouts,
}

/// The part of a section with servers.
#[derive(Debug, Default)]
pub(crate) struct Back {
    pub(crate) backend: Backend,
    pub(crate) rules: Rules,
    pub(crate) timeouts: Timeouts,
}

/// Timeouts by name, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeouts(HashMap<String, u64>);

impl Timeouts {
    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

struct Reader<'a> {
    proxy: &'a Proxy,
    bases: &'a Bases,
    resolvers: &'a HashMap<String, Resolvers>,
    /// The port that all clients of the servers connect to, if it is known.
    port: Option<u16>,
    front: Table,
    back: Table,
    binds: Vec<Bind>,
    rules: Rules,
    timeouts: Timeouts,
    default_server: Vec<Line>,
    servers: Vec<(Line, Server)>,
    health: Health,
    /// `option allbackups`.
    all_backups: bool,
    /// The line with `option nolinger`.
    no_linger: Option<Place>,
    balance: Option<Line>,
    retries: Option<u64>,
}

pub(crate) fn read(
    proxy: &Proxy,
    bases: &Bases,
    resolvers: &HashMap<String, Resolvers>,
    port: Option<u16>,
) -> (Option<Front>, Option<Back>) {
    let mut reader = Reader {
        proxy,
        bases,
        resolvers,
        port,
        front: Table::default(),
        back: Table::default(),
        binds: Vec::new(),
        rules: Rules::new(proxy),
        timeouts: Timeouts::default(),
        default_server: Vec::new(),
        servers: Vec::new(),
        health: Health::default(),
        all_backups: false,
        no_linger: None,
        balance: None,
        retries: None,
    };
    for line in &proxy.lines {
        reader.line(line);
    }
    reader.finish()
}

impl Reader<'_> {
    fn note(&mut self, note: Note) {
        if self.proxy.is_front {
            self.front.note(note);
        } else {
            self.back.note(note);
        }
    }

    fn line(&mut self, line: &Line) {
        let place = &line.place;
        let value = line.word(1);
        if self.health.line(line) || self.rules.line(line) {
            return;
        }
        match line.word(0) {
            "mode" => {}
            "bind" => self.binds.push(bind::bind(line, self.bases)),
            "server" | "server-template" => self.server(line),
            "default-server" => self.default_server.push(line.clone()),
            "balance" => self.balance = Some(line.clone()),
            "timeout" => self.timeout(line),
            "clitimeout" | "srvtimeout" | "contimeout" => {
                self.note(place.left_out("replace it with `timeout` first"));
            }
            "retries" => self.retries = value.parse().ok(),
            "maxconn" => {
                self.note(place.left_out(
                    "a frontend has no limit of its own; limits are `max_connections` of the \
                     process and `max_conns` of clients and servers",
                ));
            }
            "option" => self.option(line, value, true),
            "no" if value == "option" => self.option(line, line.word(2), false),
            "log" if global::is_network_log(line) => self.note(place.left_out(global::NETWORK_LOG)),
            "log" | "log-format" | "error-log-format" | "log-format-sd" | "log-tag" | "no"
            | "capture" => {
                self.note(place.remark("the access log has one JSON line per connection"));
            }
            "backlog"
            | "description"
            | "id"
            | "enabled"
            | "hash-type"
            | "stats"
            | "monitor-uri"
            | "monitor-net"
            | "grace"
            | "fullconn"
            | "unique-id-format"
            | "unique-id-header"
            | "http-reuse"
            | "compression"
            | "errorfile"
            | "errorfiles"
            | "load-server-state-from-file"
            | "max-keep-alive-queue"
            | "guid" => {
                self.note(place.remark("has no effect here, or is not needed"));
            }
            "clitcpka-idle" => self.keepalive(line, true),
            "srvtcpka-idle" => self.keepalive(line, false),
            "clitcpka-cnt" | "clitcpka-intvl" | "srvtcpka-cnt" | "srvtcpka-intvl" => {
                self.note(place.remark("keepalive probes are sent three times, every 10 s"));
            }
            "dispatch" => {
                let mut words = vec!["server".to_owned(), "dispatch".to_owned()];
                words.extend(line.words.get(1..).unwrap_or(&[]).iter().cloned());
                let line = Line {
                    place: place.clone(),
                    words,
                };
                // `default-server` does not apply to it.
                let defaults = std::mem::take(&mut self.default_server);
                self.server(&line);
                self.default_server = defaults;
            }
            word if word.starts_with('.') => {
                self.note(place.left_out(
                    "whether this is true is not known, so no client may use the section",
                ));
                self.rules.refuse("it depends on a condition of the source");
            }
            "disabled" => {
                self.note(place.left_out("the section is disabled: no client may use it"));
                self.rules.refuse("the source disables it");
            }
            "stick" | "persist" | "cookie" | "appsession" | "rdp-cookie" | "force-persist"
            | "ignore-persist" => {
                self.note(place.left_out(
                    "connections are not bound to a server; `balance = \"source_hash\"` sends each \
                     source to the same server",
                ));
            }
            "use-server" => self.note(
                place.left_out("client rules select servers: `allow = [\"UPSTREAM/SERVER\"]`"),
            ),
            "source" => self.note(place.left_out(
                "the source address towards the servers cannot be set; use `proxy_protocol`",
            )),
            _ => self.note(place.left_out("has no equivalent")),
        }
    }

    fn server(&mut self, line: &Line) {
        let resolvers = self.resolvers;
        let has_name_servers =
            |name: &str| resolvers.get(name).is_some_and(Resolvers::has_name_servers);
        let translate = match line.word(0) {
            "server-template" => server::template,
            _ => server::server,
        };
        let server = translate(
            line,
            &self.default_server,
            self.bases,
            &has_name_servers,
            self.port,
        );
        self.servers.push((line.clone(), server));
    }

    fn timeout(&mut self, line: &Line) {
        let name = line.word(1);
        let place = &line.place;
        match (name, units::milliseconds(line.word(2), 1)) {
            (_, None) => self.note(place.left_out("the timeout is not a number")),
            (
                "client" | "server" | "client-fin" | "server-fin" | "tunnel" | "connect" | "check"
                | "client-hs" | "queue",
                Some(ms),
            ) => {
                // 0 removes a timeout that `defaults` has set.
                if ms > 0 {
                    self.timeouts.0.insert(name.to_owned(), ms);
                } else {
                    self.timeouts.0.remove(name);
                }
            }
            _ => self.note(place.remark("has no effect in mode tcp")),
        }
    }

    fn keepalive(&mut self, line: &Line, front: bool) {
        if let Some(ms) = units::milliseconds(line.word(1), 1000) {
            let table = if front {
                &mut self.front
            } else {
                &mut self.back
            };
            table.set("keepalive", units::duration(ms));
        }
    }

    fn option(&mut self, line: &Line, name: &str, on: bool) {
        let place = line.place.clone();
        match name {
            "tcplog"
            | "httplog"
            | "httpslog"
            | "dontlognull"
            | "dontlog-normal"
            | "log-separate-errors"
            | "logasap" => {
                self.note(place.remark("the access log has one JSON line per connection"));
            }
            "tcpka" | "clitcpka" | "srvtcpka" => {
                self.note(place.remark(
                    "TCP keepalive is on by default: `keepalive` of listeners and upstreams",
                ));
            }
            "redispatch" => self.note(place.remark(
                "a failed connection attempt is always repeated at another server (`retries`)",
            )),
            "log-health-checks" | "socket-stats" | "contstats" | "splice-auto"
            | "splice-request" | "splice-response" | "abortonclose" | "tcp-smart-accept"
            | "tcp-smart-connect" | "persist" => {
                self.note(place.remark("has no effect here, or is not needed"))
            }
            "allbackups" => self.all_backups = on,
            "nolinger" => self.no_linger = on.then_some(place),
            "transparent" | "independent-streams" | "originalto" => {
                self.note(place.left_out("has no equivalent"));
            }
            "http-server-close"
            | "httpclose"
            | "forwardfor"
            | "http-keep-alive"
            | "forwarded"
            | "http-buffer-request"
            | "http-no-delay"
            | "http-use-proxy-header"
            | "http-use-htx"
            | "http-pretend-keepalive"
            | "http-ignore-probes"
            | "prefer-last-server"
            | "checkcache"
            | "accept-invalid-http-request"
            | "accept-invalid-http-response"
            | "disable-h2-upgrade"
            | "h1-case-adjust-bogus-client"
            | "h1-case-adjust-bogus-server" => {
                self.note(place.remark("has no effect in mode tcp"));
            }
            _ => self.note(place.left_out("has no equivalent")),
        }
    }

    fn finish(mut self) -> (Option<Front>, Option<Back>) {
        if let Some(place) = &self.no_linger {
            let note = place.left_out("connections end as described under half-close and resets");
            self.note(note);
        }
        let back = self.proxy.is_back.then(|| self.back());
        let front = self.proxy.is_front.then(|| Front {
            name: self.proxy.name.clone(),
            place: Some(self.proxy.head.place.clone()),
            binds: self.binds,
            table: self.front,
            rules: self.rules,
            timeouts: self.timeouts,
        });
        (front, back)
    }
}
