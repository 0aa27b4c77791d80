//! Turns listeners with decision lists into listeners, upstreams and client rules.
//!
//! Client rules apply to all listeners, and a listener has one upstream per server name.
//! Therefore, an upstream that two listeners make available to different clients is written
//! twice. The rules are the product of the decision lists of all listeners.

use super::{
    access::{
        self, Condition, Key, List, Predicate, TooMany, Verdict, always, at_sni, server_names,
    },
    model::{Backend, Imported, Limits, ServerLine, Service, Table, Value},
    names::{Names, valid},
};

/// Name of the upstream for clients that the source refuses.
const REFUSED: &str = "refused";

/// A client rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) predicate: Predicate,
    pub(crate) allow: Vec<String>,
    pub(crate) limits: Limits,
    /// Whether listeners with different limits share the rule.
    pub(crate) is_stricter: bool,
}

/// A listener with its upstream and routes.
#[derive(Debug)]
pub(crate) struct PlannedListener {
    pub(crate) service: Service,
    pub(crate) upstream: Option<String>,
    /// Upstreams by server name.
    pub(crate) routes: Vec<(String, String)>,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) listeners: Vec<PlannedListener>,
    pub(crate) upstreams: Vec<Backend>,
    pub(crate) rules: Vec<Rule>,
}

/// The clients of one listener with one server name (SNI).
struct Unit {
    service: usize,
    sni: Option<String>,
    list: List,
}

/// How a unit refers to its upstream.
enum Target {
    One(String),
    /// `allow` selects the upstream.
    ByClient,
}

/// An upstream that already has a name.
struct Assigned {
    backend: String,
    certificates: bool,
    opens: List,
    name: String,
}

struct Planner {
    backends: Vec<Backend>,
    upstreams: Vec<Backend>,
    assigned: Vec<Assigned>,
    names: Names,
    /// Backends that became part of a merged upstream.
    merged: Vec<String>,
}

/// Plans the configuration.
pub(crate) fn plan(imported: &mut Imported) -> Result<Plan, TooMany> {
    let mut units = Vec::new();
    for (number, service) in imported.services.iter_mut().enumerate() {
        for (_, verdict) in &mut service.access {
            let usable = |name: &str| {
                let found = imported
                    .backends
                    .iter()
                    .find(|backend| backend.name == name);
                found.is_some_and(|backend| backend.refused.is_empty() && backend.has_servers())
            };
            let open = service.refused.is_empty() && !service.binds.is_empty();
            match verdict {
                Verdict::To(name) if open && usable(name) => {}
                Verdict::To(name) => {
                    service.home.get_or_insert_with(|| name.clone());
                    *verdict = Verdict::Refuse;
                }
                _ => *verdict = Verdict::Refuse,
            }
        }
        let certificates = service.certificates;
        service
            .access
            .retain(|(predicate, _)| certificates || !predicate.needs_certificate());
        let refuses = |(_, verdict): &(_, Verdict)| *verdict == Verdict::Refuse;
        if service.refused.is_empty() && service.access.iter().all(refuses) {
            service.refused.push(
                "the rules of the source refuse all clients, or have no equivalent".to_owned(),
            );
        }
        units.extend(split(number, service));
    }
    let mut planner = Planner::new(&imported.backends);
    let by_client = units.len() == 1;
    let mut targets = Vec::new();
    for unit in &mut units {
        targets.push(planner.target(unit, &mut imported.services, by_client));
    }
    let rules = rules(&units, &imported.services)?;
    let mut listeners: Vec<_> = imported
        .services
        .iter()
        .map(|service| PlannedListener {
            service: service.clone(),
            upstream: None,
            routes: Vec::new(),
        })
        .collect();
    for (unit, target) in units.iter().zip(targets) {
        let listener = &mut listeners[unit.service];
        match (target, &unit.sni) {
            (Target::One(upstream), Some(sni)) => listener.routes.push((sni.clone(), upstream)),
            (Target::One(upstream), None) => listener.upstream = Some(upstream),
            (Target::ByClient, _) => {}
        }
    }
    let upstreams = planner.finish();
    Ok(Plan {
        listeners,
        upstreams,
        rules,
    })
}

/// One unit per server name, then one for all other connections.
fn split(number: usize, service: &Service) -> Vec<Unit> {
    let names = server_names(&service.access);
    let all = names.iter().map(Some).chain([None]);
    let unit = |sni: Option<&String>| Unit {
        service: number,
        sni: sni.cloned(),
        list: at_sni(&service.access, sni.map(String::as_str)),
    };
    all.map(unit).collect()
}

impl Planner {
    fn new(backends: &[Backend]) -> Self {
        let mut this = Self {
            backends: backends.to_vec(),
            upstreams: Vec::new(),
            assigned: Vec::new(),
            names: Names::default(),
            merged: Vec::new(),
        };
        // Reserve the names of the source, also for upstreams that no listener uses.
        for backend in backends {
            let _ = this.names.unique(&backend.name);
        }
        this
    }

    fn target(&mut self, unit: &mut Unit, services: &mut [Service], by_client: bool) -> Target {
        let service = &mut services[unit.service];
        let mut used: Vec<String> = Vec::new();
        for (_, verdict) in &unit.list {
            if let Verdict::To(name) = verdict
                && !used.contains(name)
            {
                used.push(name.clone());
            }
        }
        match used.as_slice() {
            [] => {
                let home = service.home.clone().filter(|home| self.has_servers(home));
                let home = match home {
                    Some(home) => home,
                    None => self.refused(),
                };
                Target::One(self.assign(&home, unit, service))
            }
            [one] => {
                let name = self.assign(one, unit, service);
                for (_, verdict) in &mut unit.list {
                    if matches!(verdict, Verdict::To(_)) {
                        *verdict = Verdict::To(name.clone());
                    }
                }
                Target::One(name)
            }
            many if by_client => {
                for name in many {
                    self.keep(name);
                }
                Target::ByClient
            }
            many => self.merged(many, unit, service),
        }
    }

    fn has_servers(&self, name: &str) -> bool {
        let found = self.backends.iter().find(|backend| backend.name == name);
        found.is_some_and(Backend::has_servers)
    }

    /// Adds the upstream under the name of its backend.
    fn keep(&mut self, name: &str) {
        if !self.upstreams.iter().any(|upstream| upstream.name == name) {
            let found = self.backends.iter().find(|backend| backend.name == name);
            self.upstreams.extend(found.cloned());
        }
    }

    /// An upstream that no client may use.
    fn refused(&mut self) -> String {
        if !self.backends.iter().any(|backend| backend.name == REFUSED) {
            let mut table = Table::default();
            table.disable_health_checks();
            let mut server = Table::default();
            server.set("address", Value::text("127.0.0.1:1"));
            self.backends.push(Backend {
                name: REFUSED.to_owned(),
                table,
                servers: vec![ServerLine::Server {
                    name: "none".to_owned(),
                    table: server,
                }],
                comments: vec![
                    "For connections that the source refuses: no client may use it.".to_owned(),
                ],
                ..Backend::default()
            });
        }
        REFUSED.to_owned()
    }

    /// Returns the name of the upstream that a backend becomes for the clients of a unit. Units
    /// that make the backend available to the same clients share the upstream.
    fn assign(&mut self, backend: &str, unit: &Unit, service: &Service) -> String {
        let opens: List = unit
            .list
            .iter()
            .map(|(predicate, verdict)| {
                let opens = matches!(verdict, Verdict::To(name) if name == backend);
                let verdict = if opens {
                    Verdict::Accept
                } else {
                    Verdict::Refuse
                };
                (predicate.clone(), verdict)
            })
            .collect();
        let found = self.assigned.iter().find(|assigned| {
            assigned.backend == backend
                && assigned.certificates == service.certificates
                && assigned.opens == opens
        });
        if let Some(assigned) = found {
            return assigned.name.clone();
        }
        let is_first = !self.assigned.iter().any(|other| other.backend == backend);
        let name = if is_first {
            self.keep(backend);
            backend.to_owned()
        } else {
            let name = self.names.unique(&format!("{backend}-{}", service.name));
            self.copy(backend, &name);
            name
        };
        self.assigned.push(Assigned {
            backend: backend.to_owned(),
            certificates: service.certificates,
            opens,
            name: name.clone(),
        });
        name
    }

    fn copy(&mut self, backend: &str, name: &str) {
        if let Some(found) = self.backends.iter().find(|other| other.name == backend) {
            let mut copy = found.clone();
            copy.comments.push(format!(
                "The servers of `{backend}`, for other clients. Connections and `max_conns` are \
                 counted separately."
            ));
            name.clone_into(&mut copy.name);
            self.upstreams.push(copy);
        }
    }

    /// Merges several backends into one upstream. The client rules select the servers.
    fn merged(&mut self, used: &[String], unit: &mut Unit, service: &mut Service) -> Target {
        let sources: Vec<Backend> = self
            .backends
            .iter()
            .filter(|backend| used.contains(&backend.name))
            .cloned()
            .collect();
        // What is sent to a server must not change. Other settings can be those of one backend.
        let same = |a: &Backend, b: &Backend| {
            a.tls == b.tls && a.table.get("proxy_protocol") == b.table.get("proxy_protocol")
        };
        let quoted: Vec<_> = used.iter().map(|name| format!("`{name}`")).collect();
        if !sources.iter().all(|other| same(&sources[0], other)) {
            let reason = format!(
                "its clients use {} with different `tls` or `proxy_protocol`",
                quoted.join(", ")
            );
            if !service.refused.contains(&reason) {
                service.refused.push(reason);
            }
            unit.list = always(Verdict::Refuse);
            let home = self.refused();
            return Target::One(self.assign(&home, unit, service));
        }
        let name = self.names.unique(&service.name);
        let mut merged = Backend {
            name: name.clone(),
            servers: Vec::new(),
            comments: vec![format!(
                "The servers of {} in one upstream: the client rules select the servers.",
                used.join(" and ")
            )],
            ..sources[0].clone()
        };
        if sources
            .iter()
            .any(|other| other.table.keys != sources[0].table.keys)
        {
            merged.comments.push(format!(
                "The settings are those of `{}`. Other settings of the source are left out.",
                sources[0].name
            ));
        }
        let mut servers: Vec<(String, String)> = Vec::new();
        let mut names = Names::default();
        for source in &sources {
            for line in &source.servers {
                let ServerLine::Server { name, table } = line else {
                    continue;
                };
                let server = names.unique(&format!("{}.{name}", source.name));
                servers.push((source.name.clone(), server.clone()));
                merged.servers.push(ServerLine::Server {
                    name: server,
                    table: table.clone(),
                });
            }
        }
        for (_, verdict) in &mut unit.list {
            if let Verdict::To(backend) = verdict {
                let own = servers.iter().filter(|(source, _)| source == backend);
                let allow: Vec<_> = own.map(|(_, server)| format!("{name}/{server}")).collect();
                *verdict = Verdict::To(allow.join("\n"));
            }
        }
        self.upstreams.push(merged);
        self.merged.extend(used.iter().cloned());
        Target::One(name)
    }

    /// Returns all upstreams, including the ones that no listener uses.
    fn finish(mut self) -> Vec<Backend> {
        let rest: Vec<_> = self
            .backends
            .iter()
            .map(|backend| backend.name.clone())
            .collect();
        for name in rest {
            if !self.merged.contains(&name) && self.has_servers(&name) {
                self.keep(&name);
            }
        }
        self.upstreams
    }
}

/// Returns the client rules for all units. At listeners without client certificates, only rules
/// by source address can match, so only these are combined with the lists of such listeners.
fn rules(units: &[Unit], services: &[Service]) -> Result<Vec<Rule>, TooMany> {
    type Combined = Vec<(Predicate, Vec<Verdict>)>;
    let combine = |certificates: bool| -> Result<(Combined, Vec<&Unit>), TooMany> {
        let mut rules: Combined = vec![(Predicate::default(), Vec::new())];
        let chosen: Vec<_> = units
            .iter()
            .filter(|unit| services[unit.service].certificates == certificates)
            .collect();
        for unit in &chosen {
            rules = access::product(&rules, &unit.list)?;
        }
        Ok((rules, chosen))
    };
    let (with, with_units) = combine(true)?;
    let (without, without_units) = combine(false)?;
    let units: Vec<_> = with_units.iter().chain(&without_units).collect();
    let mut all: Combined = Vec::new();
    for (predicate, verdicts) in with {
        if predicate.needs_certificate() {
            let none = without_units.iter().map(|_| Verdict::Refuse);
            all.push((predicate, verdicts.into_iter().chain(none).collect()));
            continue;
        }
        for (also, more) in &without {
            let condition = Condition::All(vec![
                Condition::Is(predicate.clone()),
                Condition::Is(also.clone()),
            ]);
            let both = access::when(
                &condition,
                &always(Verdict::Accept),
                &always(Verdict::Refuse),
            )?;
            if let [(both, Verdict::Accept), ..] = both.as_slice() {
                all.push((both.clone(), [verdicts.clone(), more.clone()].concat()));
            }
        }
    }
    let mut rules = Vec::new();
    let mut names = Names::default();
    for (predicate, verdicts) in all {
        let mut allow: Vec<String> = Vec::new();
        let mut limits = Limits::default();
        let mut all_limits: Vec<Limits> = Vec::new();
        for (verdict, unit) in verdicts.iter().zip(&units) {
            if let Verdict::To(name) = verdict {
                let own = services[unit.service].limits;
                limits = limits.stricter(own);
                all_limits.push(own);
                for name in name.split('\n') {
                    if !allow.iter().any(|known| known == name) {
                        allow.push(name.to_owned());
                    }
                }
            }
        }
        rules.push(Rule {
            name: names.unique(&rule_name(&predicate)),
            predicate,
            allow,
            limits,
            is_stricter: all_limits.iter().any(|own| *own != limits),
        });
    }
    // Rules that refuse are redundant at the end: clients without a matching rule are refused.
    while rules.last().is_some_and(|rule| rule.allow.is_empty()) {
        rules.pop();
    }
    Ok(rules)
}

/// Returns a name that describes the clients of the rule.
fn rule_name(predicate: &Predicate) -> String {
    let mut keys = predicate.keys();
    match (keys.next(), keys.next()) {
        (None, _) => "any-client".to_owned(),
        (Some((key, [value])), _) if key != Key::Source => valid(value),
        (Some((Key::Source, [value])), None) => valid(&format!("from-{value}")),
        (Some((Key::Source, _)), None) => "networks".to_owned(),
        (Some((key, _)), _) => format!("clients-by-{}", key.name()),
    }
}
