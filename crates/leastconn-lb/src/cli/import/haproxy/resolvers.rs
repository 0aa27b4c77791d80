//! `resolvers` sections.

use std::collections::HashMap;

use super::{
    super::{
        address::is_ip,
        model::{Note, Value},
        toml::VARIABLE_START,
        units,
    },
    lexer::Line,
    server::Server,
};

/// Shortest `refresh`, in milliseconds.
const SHORTEST_REFRESH: u64 = 1_000;

/// DNS servers and times for discovered servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resolvers {
    name_servers: Vec<String>,
    /// Milliseconds.
    refresh: Option<u64>,
    /// Milliseconds.
    hold: Option<u64>,
}

impl Resolvers {
    /// Whether servers must be looked up with these DNS servers. Otherwise, the resolver of the
    /// operating system has the same result.
    pub(crate) fn has_name_servers(&self) -> bool {
        !self.name_servers.is_empty()
    }
}

/// Reads all sections. Adds notes for lines that are not translated.
pub(crate) fn read(
    sections: &HashMap<String, Vec<Line>>,
    notes: &mut Vec<Note>,
) -> HashMap<String, Resolvers> {
    let mut all = HashMap::new();
    let mut names: Vec<_> = sections.keys().collect();
    names.sort();
    for name in names {
        let mut resolvers = Resolvers::default();
        for line in sections.get(name).into_iter().flatten() {
            notes.extend(resolvers.line(line));
        }
        all.insert(name.clone(), resolvers);
    }
    all
}

impl Resolvers {
    fn line(&mut self, line: &Line) -> Option<Note> {
        let place = &line.place;
        match (line.word(0), line.word(1)) {
            ("nameserver", _) => match name_server(line.word(2)) {
                Some(address) => self.name_servers.push(address),
                None => return Some(place.left_out("the DNS server is not an IP address")),
            },
            // DNS servers of the system are used if there are no others.
            ("parse-resolv-conf", _) => {}
            ("timeout", "resolve") => {
                let period = units::milliseconds(line.word(2), 1);
                self.refresh = self.refresh.or(period);
            }
            // A valid answer is not looked up again before this time.
            ("hold", "valid") => self.refresh = units::milliseconds(line.word(2), 1),
            ("hold", "obsolete") => self.hold = units::milliseconds(line.word(2), 1),
            ("hold" | "timeout" | "resolve_retries" | "accepted_payload_size", _) => {
                return Some(place.remark(
                    "see docs/how-to/discover-servers.md for retries and failed look-ups",
                ));
            }
            _ => return Some(place.left_out("has no equivalent")),
        }
        None
    }
}

/// Parses `IP:PORT`.
fn name_server(text: &str) -> Option<String> {
    let prefixes = ["udp@", "udp4@", "udp6@", "tcp@", "ipv4@", "ipv6@"];
    let bare = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    let text = bare.unwrap_or(text);
    let (host, _) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_address = host.contains(VARIABLE_START) || is_ip(host);
    is_address.then(|| text.to_owned())
}

/// Returns the `discovery` table of an upstream, and notes for settings of its servers that differ.
pub(crate) fn discovery(
    servers: &[&(Line, Server)],
    all: &HashMap<String, Resolvers>,
) -> (Option<Value>, Vec<Note>) {
    let discovered = servers
        .iter()
        .filter(|(_, server)| server.table.get("address").is_none());
    let discovered: Vec<_> = discovered.collect();
    let Some((_, first)) = discovered.first() else {
        return (None, Vec::new());
    };
    let of = |server: &Server| server.resolvers.as_ref().and_then(|name| all.get(name));
    let mut notes = Vec::new();
    for (line, server) in &discovered {
        let place = &line.place;
        if server.resolvers != first.resolvers || server.family != first.family {
            let reason = "discovered servers of an upstream have the same `discovery` settings";
            notes.push(place.differs(reason));
        }
        if server.resolvers.is_some() && of(server).is_none() {
            notes.push(place.left_out("there is no such `resolvers` section"));
        }
    }
    let mut keys = Vec::new();
    let resolvers = of(first).cloned().unwrap_or_default();
    if resolvers.has_name_servers() {
        keys.push(("resolver", Value::list(&resolvers.name_servers)));
    }
    if let Some(ms) = resolvers.refresh {
        keys.push(("refresh", units::duration(ms.max(SHORTEST_REFRESH))));
    }
    if let Some(ms) = resolvers.hold {
        keys.push(("hold", units::duration(ms)));
    }
    if let Some(max) = discovered.iter().filter_map(|(_, s)| s.template).max() {
        keys.push(("max", Value::Integer(max)));
    }
    if let Some(family) = first.family {
        keys.push(("family", Value::text(family)));
    }
    let table = (!keys.is_empty()).then_some(Value::Table(keys));
    (table, notes)
}
