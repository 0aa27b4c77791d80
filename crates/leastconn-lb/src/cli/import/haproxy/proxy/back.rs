//! The upstream of a section with servers.

use super::{
    super::{
        super::{
            model::{Backend, ServerLine, Table, Value},
            names::Names,
            units,
        },
        lexer::Line,
        resolvers,
        server::{Agent, Server},
    },
    Back, Reader,
    origins::origins,
};

/// Largest `size` of a queue. HAProxy has no limit by default.
const LARGEST_QUEUE: u64 = 100_000;

/// HAProxy's default interval between two agent checks, in milliseconds.
const AGENT_INTERVAL: u64 = 2_000;

impl Reader<'_> {
    pub(super) fn back(&mut self) -> Back {
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
            place: Some(self.proxy.head.place.clone()),
            origins: origins(self.proxy),
            refused: self
                .rules
                .refused()
                .map(str::to_owned)
                .into_iter()
                .collect(),
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
                self.back.note(line.place.differs(reason));
                "least_conn"
            }
            "hash" if line.word(2) == "src" => "source_hash",
            _ => {
                let reason = "the algorithm needs application data; least_conn instead";
                self.back.note(line.place.differs(reason));
                "least_conn"
            }
        }
    }

    /// Returns the queue if a server has `maxconn`. HAProxy limits the queue of each server, so
    /// `size` is the sum of these limits.
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

    /// Translates `agent-check` of the servers.
    fn agent(&self, servers: &[&(Line, Server)], table: &mut Table) {
        let mut with_agent = servers.iter().filter_map(|(line, server)| {
            let agent = server.agent.as_ref()?;
            Some((line, agent))
        });
        let Some((line, first)) = with_agent.next() else {
            return;
        };
        let differs = |server: &Server| server.agent.as_ref() != Some(first);
        for (other, server) in servers.iter().filter(|(_, server)| differs(server)) {
            let own = server.agent.as_ref().map(Agent::shown);
            table.note(other.place.differs(format!(
                "all servers of an upstream have the same agent check: {} of `{}`, not {}",
                first.shown(),
                line.word(1),
                own.as_deref().unwrap_or("none")
            )));
        }
        let Agent {
            port,
            interval,
            send,
        } = first;
        let interval = interval.unwrap_or(AGENT_INTERVAL);
        let timeout = self.timeouts.get("check").unwrap_or(interval).min(interval);
        let mut keys = Vec::new();
        keys.extend(port.map(|port| ("port", Value::Integer(port))));
        keys.push(("interval", units::duration(interval)));
        keys.push(("timeout", units::duration(timeout)));
        keys.extend(send.as_ref().map(|text| ("send", Value::text(text))));
        table.set("agent_check", Value::Table(keys));
    }

    /// Adds the servers, and the settings that they share.
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
                    .differs("all backup servers are used, not only the first"),
            );
        }
        let checked: Vec<_> = usable.iter().filter(|(_, server)| server.check).collect();
        let checks = checked.first().map(|(_, server)| server.checks.clone());
        if let (Some(checks), Some((first, _))) = (&checks, checked.first()) {
            let (used, name) = (checks.shown(), first.word(1));
            for (line, server) in &usable {
                if !server.check {
                    table.note(line.place.differs(format!(
                        "all servers of an upstream are checked: this one too, with {used} of \
                         `{name}`"
                    )));
                } else if server.checks != *checks {
                    table.note(line.place.differs(format!(
                        "all servers of an upstream have the same health check: {used} of \
                         `{name}`, not {}",
                        server.checks.shown()
                    )));
                }
            }
        }
        for (line, server) in &usable {
            let (own, used) = (server.shown_ejection(), first.shown_ejection());
            if own != used {
                table.note(line.place.differs(format!(
                    "all servers of an upstream have the same `passive` and `slow_start`: {used} \
                     of `{}`, not {own}",
                    first.name
                )));
            }
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
        self.agent(&usable, table);
        let (discovery, notes) = resolvers::discovery(&usable, self.resolvers);
        if let Some(discovery) = discovery {
            table.set("discovery", discovery);
        }
        table.notes.extend(notes);
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
                let reason = format!(
                    "all servers of an upstream have the same `tls` and `proxy_protocol`: {} as \
                     `{}`. This server has {}, so it is left out{}",
                    first.shown_connection(),
                    first.name,
                    server.shown_connection(),
                    if tls_keys(&server) == tls_keys(&first) {
                        ""
                    } else {
                        ". If only the names in the certificates differ, use these names as addresses"
                    }
                );
                backend
                    .servers
                    .push(ServerLine::Note(line.place.left_out(reason)));
                continue;
            }
            let source = |table: &Table| table.get("dns").or(table.get("srv")).cloned();
            let is_same = |other: &ServerLine| match other {
                ServerLine::Server { table, .. } => {
                    source(table).is_some() && source(table) == source(&server.table)
                }
                ServerLine::Note(_) => false,
            };
            if backend.servers.iter().any(is_same) {
                let reason = "all addresses of this name are servers already";
                backend
                    .servers
                    .push(ServerLine::Note(line.place.remark(reason)));
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
