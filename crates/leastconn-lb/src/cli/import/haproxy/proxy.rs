//! `frontend`, `backend` and `listen` sections.

use std::collections::HashMap;

use super::{
    super::{
        access::{List, Verdict, always},
        model::{Backend, Limits, Note, Place, ServerLine, Service, Table, Value},
        names::Names,
        units,
    },
    acl::{Limit, Tracked},
    bind::{self, Bind},
    health::Health,
    lexer::Line,
    rules::{self, Rules},
    sections::Proxy,
    server::{self, Server},
    tls::Bases,
};

/// Largest `size` of a queue. HAProxy has no limit by default.
const LARGEST_QUEUE: u64 = 100_000;

/// The part of a section that clients connect to.
#[derive(Debug, Default)]
pub(crate) struct Front {
    pub(crate) name: String,
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

/// Timeouts by their names, in milliseconds.
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
    front: Table,
    back: Table,
    binds: Vec<Bind>,
    rules: Rules,
    timeouts: Timeouts,
    default_server: Vec<String>,
    servers: Vec<(Line, Server)>,
    health: Health,
    /// `option allbackups`.
    all_backups: bool,
    /// The line with `option nolinger`.
    no_linger: Option<Place>,
    balance: Option<Line>,
    retries: Option<u64>,
}

pub(crate) fn read(proxy: &Proxy, bases: &Bases) -> (Option<Front>, Option<Back>) {
    let mut reader = Reader {
        proxy,
        bases,
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
            "mode" | "description" | "id" | "enabled" | "hash-type" | "hash-balance-factor" => {}
            "bind" => self.binds.push(bind::bind(line, self.bases)),
            "server" => {
                let server = server::server(line, &self.default_server, self.bases);
                self.servers.push((line.clone(), server));
            }
            "server-template" => {
                let server = server::template(line, &self.default_server, self.bases);
                self.servers.push((line.clone(), server));
            }
            "default-server" => self.default_server.extend_from_slice(&line.words[1..]),
            "balance" => self.balance = Some(line.clone()),
            "timeout" => self.timeout(line),
            "clitimeout" | "srvtimeout" | "contimeout" => {
                self.note(place.left_out("replace it by `timeout` first"));
            }
            "retries" => self.retries = value.parse().ok(),
            "maxconn" => {
                self.note(place.left_out(
                    "connections are limited per process (`max_connections`), client and server",
                ));
            }
            "option" => self.option(line, value, true),
            "no" if value == "option" => self.option(line, line.word(2), false),
            "log" | "log-format" | "error-log-format" | "log-format-sd" | "log-tag" | "no"
            | "capture" => {
                self.note(place.remark("the access log has one JSON line per connection"));
            }
            "backlog"
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
                let server = server::server(&line, &[], self.bases);
                self.servers.push((line, server));
            }
            "disabled" => {
                self.note(place.left_out("the section is disabled: no client may use it"));
                self.rules.refuse("the source disables it");
            }
            "stick" | "persist" | "cookie" | "appsession" | "rdp-cookie" | "force-persist"
            | "ignore-persist" | "use-server" => {
                self.note(place.left_out("connections are not bound to a server"));
            }
            _ => self.note(place.left_out("has no equivalent")),
        }
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
                // 0 replaces a value of `defaults` by none.
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
            | "dontlognull"
            | "dontlog-normal"
            | "log-separate-errors"
            | "logasap"
            | "log-health-checks"
            | "socket-stats"
            | "contstats"
            | "httpslog"
            | "tcpka"
            | "clitcpka"
            | "srvtcpka"
            | "redispatch"
            | "splice-auto"
            | "splice-request"
            | "splice-response"
            | "abortonclose"
            | "tcp-smart-accept"
            | "tcp-smart-connect"
            | "persist" => {}
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
            binds: self.binds,
            table: self.front,
            rules: self.rules,
            timeouts: self.timeouts,
        });
        (front, back)
    }

    fn back(&mut self) -> Back {
        let mut table = Table::default();
        table.set("balance", Value::text(self.balance()));
        if let Some(ms) = self.timeouts.get("connect") {
            table.set("connect_timeout", units::duration(ms));
        }
        table.set(
            "retries",
            Value::Integer(self.retries.unwrap_or(3).min(1000)),
        );
        // HAProxy never dials a server that is down.
        table.set("panic", Value::text("refuse"));
        for (key, value) in std::mem::take(&mut self.back.keys) {
            table.set(key, value);
        }
        table.notes.append(&mut self.back.notes);
        let mut backend = Backend {
            name: self.proxy.name.clone(),
            ..Backend::default()
        };
        self.servers(&mut backend, &mut table);
        backend.table = table;
        Back {
            backend,
            rules: self.rules.for_backend(),
            timeouts: self.timeouts.clone(),
        }
    }

    fn balance(&mut self) -> &'static str {
        let Some(line) = self.balance.take() else {
            return "round_robin";
        };
        match line.word(1) {
            "roundrobin" | "static-rr" => "round_robin",
            "leastconn" => "least_conn",
            "source" => "source_hash",
            "random" | "random(2)" => "p2c",
            "random(1)" => "random",
            word if word.starts_with("random(") => "p2c",
            "first" => {
                let reason = "no algorithm fills one server after the other; least_conn instead";
                self.back.note(line.place.left_out(reason));
                "least_conn"
            }
            "hash" if line.word(2) == "src" => "source_hash",
            _ => {
                let reason = "the algorithm needs application data; least_conn instead";
                self.back.note(line.place.left_out(reason));
                "least_conn"
            }
        }
    }

    /// The queue, if a server has `maxconn`. HAProxy limits the queue of each server, so `size` is
    /// the sum of these limits.
    fn queue(&self, servers: &[&(Line, Server)]) -> Option<Value> {
        let is_limited = |server: &Server| {
            let limit = server.table.get("max_conns");
            matches!(limit, Some(Value::Integer(limit)) if *limit > 0)
        };
        let limited: Vec<_> = servers.iter().filter(|(_, s)| is_limited(s)).collect();
        if limited.is_empty() {
            return None;
        }
        let sizes: Option<Vec<u64>> = limited.iter().map(|(_, s)| s.max_queue).collect();
        let size = sizes.map_or(LARGEST_QUEUE, |sizes| {
            let sum = sizes.into_iter().fold(0, u64::saturating_add);
            sum.min(LARGEST_QUEUE)
        });
        let mut queue = vec![("size", Value::Integer(size))];
        let timeouts = ["queue", "connect"].into_iter();
        let timeout = timeouts.filter_map(|name| self.timeouts.get(name)).next();
        queue.extend(timeout.map(|ms| ("timeout", units::duration(ms))));
        Some(Value::Table(queue))
    }

    /// Adds the servers, and the settings that they have in common.
    fn servers(&mut self, backend: &mut Backend, table: &mut Table) {
        let servers = std::mem::take(&mut self.servers);
        let usable: Vec<_> = servers
            .iter()
            .filter(|(_, server)| server.left_out.is_none())
            .collect();
        let first = usable
            .first()
            .map(|(_, server)| server.clone())
            .unwrap_or_default();
        let backups = usable
            .iter()
            .filter(|(_, server)| server.table.get("backup").is_some())
            .collect::<Vec<_>>();
        if let [_, (line, _), ..] = backups.as_slice()
            && !self.all_backups
        {
            table.note(
                line.place
                    .left_out("all backup servers are used, not only the first"),
            );
        }
        let checked: Vec<_> = usable.iter().filter(|(_, server)| server.check).collect();
        if let Some((line, _)) = usable.iter().find(|(_, server)| !server.check)
            && !checked.is_empty()
        {
            table.note(
                line.place
                    .left_out("health checks apply to all servers of an upstream"),
            );
        }
        let checks = checked.first().map(|(_, server)| server.checks.clone());
        if let Some((line, _)) = checked
            .iter()
            .find(|(_, server)| Some(&server.checks) != checks.as_ref())
        {
            table.note(
                line.place
                    .left_out("servers of an upstream have the same health checks"),
            );
        }
        if let Some(queue) = self.queue(&usable) {
            table.set("queue", queue);
        }
        if let Some(kind) = first.proxy_protocol {
            table.set("proxy_protocol", Value::text(kind));
        }
        if let Some(ms) = first.slow_start {
            table.set("slow_start", units::duration(ms));
        }
        let observe = first.observe.unwrap_or(0);
        let passive = vec![("max_fails", Value::Integer(observe))];
        table.set("passive", Value::Table(passive));
        let mut health = std::mem::take(&mut self.health);
        health.timeout = self.timeouts.get("check");
        let refused = first.refused.clone();
        health.table(checks.as_ref().filter(|_| refused.is_none()), table);
        backend.refused.extend(refused);
        if let Some(tls) = &first.tls {
            backend.tls = Some(tls.clone());
        }
        let mut names = Names::default();
        for (line, mut server) in servers {
            let tls_keys = |server: &Server| server.tls.as_ref().map(|tls| tls.keys.clone());
            if let Some(note) = server.left_out.take() {
                backend.servers.push(ServerLine::Note(note));
                continue;
            }
            let differs = tls_keys(&server) != tls_keys(&first)
                || server.proxy_protocol != first.proxy_protocol
                || server.refused != first.refused;
            if differs {
                let reason = "servers of an upstream have the same `tls` and `proxy_protocol`";
                backend
                    .servers
                    .push(ServerLine::Note(line.place.left_out(reason)));
                continue;
            }
            server.table.notes.append(&mut server.notes);
            backend.servers.push(ServerLine::Server {
                name: names.unique(&server.name),
                table: server.table,
            });
        }
    }
}

/// Returns the listeners of a section. `bind` lines with the same settings become one listener.
pub(crate) fn services(front: &Front, names: &mut Names, default: Option<&str>) -> Vec<Service> {
    let mut services: Vec<(Bind, Service)> = Vec::new();
    for bind in &front.binds {
        let found = services
            .iter_mut()
            .find(|(first, _)| first.same_settings(bind));
        if let Some((_, service)) = found {
            service.binds.extend(bind.addresses.iter().cloned());
            service.table.notes.extend(bind.table.notes.iter().cloned());
            continue;
        }
        let mut table = bind.table.clone();
        for (key, value) in &front.table.keys {
            table.set(key, value.clone());
        }
        table.notes.extend(front.table.notes.iter().cloned());
        let service = Service {
            name: names.unique(&front.name),
            binds: bind.addresses.clone(),
            table,
            tls: bind.tls.clone(),
            certificates: bind.certificates,
            refused: bind.refused.clone(),
            home: default.map(str::to_owned),
            access: always(Verdict::Refuse),
            limits: Limits::default(),
        };
        services.push((bind.clone(), service));
    }
    services.into_iter().map(|(_, service)| service).collect()
}

/// Applies the limits of the rules to a listener.
pub(crate) fn limits(service: &mut Service, limits: &[(Limit, Place, bool)]) {
    for (limit, place, for_all) in limits {
        let key = rules::limit_key(*limit);
        let applied = match (*limit, key) {
            (Limit::Rate(_, number, period), Tracked::Source) => {
                let rate = rules::rate(number, period);
                service.table.set("source_rate_limit", rate.value());
                true
            }
            (Limit::Rate(_, number, period), Tracked::CommonName) if service.certificates => {
                service.limits.rate = Some(rules::rate(number, period));
                true
            }
            (Limit::Open(_, number), Tracked::Source) if !service.certificates => {
                service.limits.max_conns = Some(number.max(1));
                true
            }
            (Limit::Open(_, number), Tracked::CommonName) if service.certificates => {
                service.limits.max_conns = Some(number.max(1));
                true
            }
            _ => false,
        };
        if !applied {
            let reason = "a limit of the source has no equivalent";
            service.refused.push(reason.to_owned());
            service
                .table
                .note(place.left_out("limits are per source or per client certificate"));
        } else if !for_all {
            service
                .table
                .note(place.left_out("the limit applies to all clients of the listener"));
        } else if let Limit::Rate(_, number, period) = limit {
            service.table.note(place.remark(format!(
                "a token bucket: {number} connections at once, then {number} per {} s",
                *period as f64 / 1000.0
            )));
        }
    }
}

/// Applies the rules of each backend to the clients that are sent to it.
pub(crate) fn through(list: List, backend: &str, own: &List) -> Result<List, String> {
    use super::super::access::chain;
    let to = Verdict::To(backend.to_owned());
    let own = own
        .iter()
        .map(|(predicate, verdict)| {
            let verdict = match verdict {
                Verdict::Accept => to.clone(),
                other => other.clone(),
            };
            (predicate.clone(), verdict)
        })
        .collect();
    chain(&list, &to, &own).map_err(|_| "the access rules have too many cases".to_owned())
}
