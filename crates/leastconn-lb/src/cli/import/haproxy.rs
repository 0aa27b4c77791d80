//! HAProxy configurations.

mod acl;
mod bind;
mod environment;
mod global;
mod health;
mod lexer;
mod listeners;
mod preprocessor;
mod proxy;
mod resolvers;
mod rules;
mod sections;
mod server;
mod tls;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    rc::Rc,
};

use super::{
    access::{Condition, Key, List, Predicate, TooMany, Verdict, always, when},
    model::{Imported, Note, Service, Value},
    names::{Names, valid},
    toml::inline,
    units,
};
use acl::Periods;
use listeners::Ports;
use proxy::{Back, Front};
use rules::{LimitRule, Rules, Surroundings};

/// Imports the text of a file in `dir`.
///
/// # Errors
/// If the text is not an HAProxy configuration.
pub(crate) fn import(file: &Rc<str>, text: &str, dir: Option<&Path>) -> Result<Imported, String> {
    let (lines, notes) = preprocessor::preprocess(lexer::lines(file, text)?);
    let mut sections = sections::sections(lines)?;
    if sections.proxies.is_empty() && sections.global.is_empty() {
        return Err(format!("{file}: there is no HAProxy section"));
    }
    let mut imported = Imported {
        notes,
        ..Imported::default()
    };
    let global = global::read(&sections.global, &mut imported, dir);
    for line in &sections.stray {
        let reason = if line.word(0).starts_with('.') {
            "whether this is true is not known: the lines after it are used"
        } else {
            "the line is outside of sections"
        };
        imported.notes.push(line.place.left_out(reason));
    }
    let resolvers = resolvers::read(&sections.resolvers, &mut imported.notes);
    for line in &sections.others {
        imported.notes.push(other_section(line));
    }
    for proxy in &mut sections.proxies {
        global.prepend_defaults(proxy);
    }
    let tables = sections.tables.iter();
    let tables = tables.map(|(name, line)| (name.clone(), acl::periods(line)));
    let mut tables: HashMap<String, Periods> = tables.collect();
    let ports = Ports::new(&sections.proxies);
    let (mut fronts, mut backs): (Vec<Front>, Vec<Back>) = (Vec::new(), Vec::new());
    for proxy in &sections.proxies {
        for line in proxy
            .lines
            .iter()
            .filter(|line| line.word(0) == "stick-table")
        {
            tables.insert(proxy.name.clone(), acl::periods(line));
        }
        let place = &proxy.head.place;
        if proxy.is_table() {
            imported
                .notes
                .push(place.remark("a section for a stick table is not needed"));
            let lines = proxy.lines.iter();
            let shared = lines.filter(|line| rules::is_shared_table(line));
            imported
                .notes
                .extend(shared.map(|line| line.place.left_out(PEERS)));
            continue;
        }
        if proxy.mode() != "tcp" {
            imported.notes.push(if proxy.mode() != "http" {
                place.left_out(format!("mode {} is not supported", proxy.mode()))
            } else if proxy.is_statistics() {
                place.remark(
                    "the dashboard at the admin address replaces the page of statistics; reading \
                     it needs no password, so keep `bind` on loopback",
                )
            } else {
                place.left_out(
                    "mode http is out of scope: leastconn-lb balances TCP connections and does \
                     not read HTTP requests",
                )
            });
            continue;
        }
        let port = ports.of(&proxy.name);
        let (front, back) = proxy::read(proxy, &global.bases, &resolvers, port);
        fronts.extend(front);
        backs.extend(back);
    }
    let mut upstreams = UpstreamNames::new(&backs);
    let mut names = Names::default();
    let backends: Vec<_> = backs
        .iter()
        .map(|back| back.backend.name.as_str())
        .collect();
    for front in &fronts {
        let own = backs.iter().find(|back| back.backend.name == front.name);
        let own = own.map(|back| back.backend.name.as_str());
        let default = front.rules.default_backend().or(own);
        for mut service in listeners::services(front, &mut names, default) {
            if service.binds.is_empty() {
                imported.services.push(service);
                continue;
            }
            let surroundings = Surroundings {
                tls: service.tls.is_some(),
                certificates: service.certificates,
                has_header: service.table.get("proxy_protocol").is_some(),
                dir,
                tables: &tables,
                ports: &listeners::ports(&service),
                backends: &backends,
                ignores_unknown: false,
            };
            evaluate(&mut service, front, default, &backs, surroundings)?;
            upstreams.rename(&mut service);
            imported.services.push(service);
        }
    }
    for mut back in backs {
        let name = upstreams.name(&back.backend.name);
        if name != valid(&back.backend.name) {
            back.backend
                .comments
                .push(format!("`{}` of the source.", back.backend.name));
        }
        back.backend.name = name;
        imported.backends.push(back.backend);
    }
    Ok(imported)
}

/// Maps backend names to upstream names: HAProxy allows more characters in its names.
struct UpstreamNames {
    by_backend: HashMap<String, String>,
    names: Names,
}

impl UpstreamNames {
    /// Keeps the names of backends that are also valid as names of upstreams.
    fn new(backs: &[Back]) -> Self {
        let mut this = Self {
            by_backend: HashMap::new(),
            names: Names::default(),
        };
        let backends = || backs.iter().map(|back| &back.backend.name);
        for name in backends().filter(|name| valid(name) == **name) {
            this.name(name);
        }
        for name in backends() {
            this.name(name);
        }
        this
    }

    /// Returns the upstream of a backend. A backend that is missing from the file also gets its
    /// own name, so that no other upstream is used instead.
    fn name(&mut self, backend: &str) -> String {
        let known = self.by_backend.get(backend).cloned();
        known.unwrap_or_else(|| {
            let name = self.names.unique(backend);
            self.by_backend.insert(backend.to_owned(), name.clone());
            name
        })
    }

    fn rename(&mut self, service: &mut Service) {
        let lists = service.access.iter_mut().chain(&mut service.described);
        for (_, verdict) in lists {
            if let Verdict::To(name) = verdict {
                *name = self.name(name);
            }
        }
        service.home = service.home.as_deref().map(|name| self.name(name));
    }
}

/// Why tables are not shared with `peers`.
pub(crate) const PEERS: &str = "balancers do not send tables to each other. The equivalent is `[fleet]` \
    with a Valkey or Redis server: it shares `rate_limit` and `max_conns` of client rules and the \
    connection counts of servers, but not `source_rate_limit`. See docs/fleet.md";

fn other_section(line: &lexer::Line) -> Note {
    match line.word(0) {
        "peers" => line.place.left_out(PEERS),
        "program" => line.place.left_out("no other programs are started"),
        _ => line.place.remark("the section is not needed for TCP"),
    }
}

/// Sets the access list, limits and timeouts of a listener.
fn evaluate(
    service: &mut Service,
    front: &Front,
    default: Option<&str>,
    backs: &[Back],
    surroundings: Surroundings<'_>,
) -> Result<(), String> {
    let too_many = |_: TooMany| format!("`{}`: the access rules have too many cases", front.name);
    let rules = match (front.rules.default_backend(), default) {
        (None, Some(own)) => front.rules.with_default(own),
        _ => front.rules.clone(),
    };
    let decided = decide(&rules, backs, surroundings).map_err(too_many)?;
    service.table.notes.extend(decided.notes);
    service.refused.extend(decided.refused);
    if !decided.proxies.is_empty() {
        let proxies = Value::strings(&decided.proxies);
        service.table.set("proxy_protocol_from", proxies);
    }
    let mut list = decided.list;
    if !is_open(&list) {
        let surroundings = Surroundings {
            ignores_unknown: true,
            ..surroundings
        };
        let described = decide(&rules, backs, surroundings).map_err(too_many)?;
        service.described = described.list;
    }
    let mut reasons = HashSet::new();
    service
        .refused
        .retain(|reason| reasons.insert(reason.clone()));
    if !service.server_names.is_empty() {
        let named = Predicate::new(Key::Sni, service.server_names.clone());
        let others = always(Verdict::Refuse);
        list = when(&Condition::Is(named), &list, &others).map_err(too_many)?;
    }
    let is_used = |back: &&Back| decided.used.contains(&back.backend.name);
    let used: Vec<&Back> = backs.iter().filter(is_used).collect();
    service.access = list;
    listeners::limits(service, decided.limits).map_err(too_many)?;
    timeouts(service, front, &used);
    Ok(())
}

fn is_open(list: &List) -> bool {
    list.iter()
        .any(|(_, verdict)| matches!(verdict, Verdict::To(_)))
}

/// The rules of a section and of its backends.
#[derive(Default)]
struct Decided {
    list: List,
    limits: Vec<LimitRule>,
    notes: Vec<Note>,
    /// Why no client may use the listener. The list is that of the source then.
    refused: Vec<String>,
    proxies: Vec<String>,
    /// The backends in the list.
    used: HashSet<String>,
}

fn decide(
    rules: &Rules,
    backs: &[Back],
    surroundings: Surroundings<'_>,
) -> Result<Decided, TooMany> {
    let front = rules.evaluate(surroundings)?;
    let mut decided = Decided {
        list: front.list,
        limits: front.limits,
        notes: front.notes,
        refused: front.refused,
        proxies: front.proxies,
        used: HashSet::new(),
    };
    let mut closed = HashSet::new();
    let (mut closed_limits, mut reasons) = (Vec::new(), Vec::new());
    for back in backs {
        let name = &back.backend.name;
        let is_used = |verdict: &Verdict| matches!(verdict, Verdict::To(to) if to == name);
        if !decided.list.iter().any(|(_, verdict)| is_used(verdict)) {
            continue;
        }
        decided.used.insert(name.clone());
        if back.rules.is_repeated_by(rules) {
            continue;
        }
        let own = back.rules.evaluate(surroundings)?;
        decided.notes.extend(own.notes);
        let limits = match own.refused.is_empty() {
            true => &mut decided.limits,
            false => &mut closed_limits,
        };
        for mut limit in own.limits {
            // The limits of a backend apply to the clients that are sent to it.
            let applies = limit
                .applies
                .map(|own| listeners::limited_at(&decided.list, name, &own));
            limit.applies = applies.transpose()?;
            limits.push(limit);
        }
        if !own.refused.is_empty() {
            closed.insert(name.clone());
            reasons.extend(own.refused);
        }
        decided.list = listeners::through(decided.list, name, &own.list)?;
    }
    let is_closed = |verdict: &Verdict| matches!(verdict, Verdict::To(to) if closed.contains(to));
    let mut open = decided.list.iter();
    if open.any(|(_, verdict)| matches!(verdict, Verdict::To(_)) && !is_closed(verdict)) {
        for (_, verdict) in &mut decided.list {
            if is_closed(verdict) {
                *verdict = Verdict::Refuse;
            }
        }
    } else {
        decided.refused.extend(reasons);
        decided.limits.extend(closed_limits);
    }
    Ok(decided)
}

/// Sets the idle timeout to `timeout tunnel` or else to the shorter of the client and server
/// timeouts.
fn timeouts(service: &mut Service, front: &Front, used: &[&Back]) {
    let shortest = |name: &str| used.iter().filter_map(|back| back.timeouts.get(name)).min();
    let client = front.timeouts.get("client");
    let tunnel = shortest("tunnel").or_else(|| front.timeouts.get("tunnel"));
    let idle = tunnel.or_else(|| client.into_iter().chain(shortest("server")).min());
    if let Some(ms) = idle {
        service.table.set("idle_timeout", units::duration(ms));
    }
    for back in used {
        let own = back.timeouts.get("tunnel");
        let server = back.timeouts.get("server");
        let effective = own
            .or_else(|| front.timeouts.get("tunnel"))
            .or_else(|| client.into_iter().chain(server).min());
        let name = if own.is_some() { "tunnel" } else { "server" };
        let backend = &back.backend;
        let origin = backend.origins.iter().find(|(key, _)| *key == name);
        let origin = origin.map(|(_, place)| place);
        if effective != idle
            && let Some(place) = origin.or(backend.place.as_ref())
        {
            let shown = |ms: Option<u64>| ms.map_or(Value::text("none"), units::duration);
            service.table.note(place.differs(format!(
                "the backends of a listener have one `idle_timeout`: {}, not {} for `{}`",
                inline(&shown(idle)),
                inline(&shown(effective)),
                backend.name
            )));
        }
    }
    let ends = front
        .timeouts
        .get("client-fin")
        .into_iter()
        .chain(shortest("server-fin"));
    if let Some(ms) = ends.min() {
        service.table.set("half_close_timeout", units::duration(ms));
    }
    if let Some(ms) = front.timeouts.get("client-hs") {
        service.table.set("handshake_timeout", units::duration(ms));
    }
    if service.table.get("proxy_protocol") == Some(&Value::text("required")) {
        service
            .table
            .keys
            .sort_by_key(|(key, _)| !key.starts_with("proxy_protocol"));
    }
}

#[cfg(test)]
mod tests;
