//! Assigns upstreams to the clients of each listener.

use super::{
    super::{
        access::{List, Verdict, always},
        model::{Backend, Kind, Note, ServerLine, Service, Value},
        names::Names,
    },
    Unit,
    lost::lost_settings,
};

/// How a unit refers to its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    One(String),
    /// `allow` selects the upstream.
    ByClient,
    /// `upstream = false`.
    Refuse,
}

/// An upstream that already has a name.
struct Assigned {
    backend: String,
    certificates: bool,
    opens: List,
    name: String,
}

pub(super) struct Planner {
    backends: Vec<Backend>,
    upstreams: Vec<Backend>,
    assigned: Vec<Assigned>,
    names: Names,
    /// Backends that became part of a merged upstream, with the name of the upstream.
    merged: Vec<(String, String)>,
}

impl Planner {
    pub(super) fn new(backends: &[Backend]) -> Self {
        let mut this = Self {
            backends: backends.to_vec(),
            upstreams: Vec::new(),
            assigned: Vec::new(),
            names: Names::default(),
            merged: Vec::new(),
        };
        // Reserve the names in the source, including those of upstreams that no listener uses.
        for backend in backends {
            let _ = this.names.unique(&backend.name);
        }
        this
    }

    pub(super) fn target(
        &mut self,
        unit: &mut Unit,
        services: &mut [Service],
        by_client: bool,
    ) -> Target {
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
            [] => match service.home.clone() {
                Some(home) if self.has_servers(&home) && !self.is_open(&home) => {
                    Target::One(self.assign(&home, unit, service))
                }
                _ => Target::Refuse,
            },
            [one] => {
                let name = self.assign(one, unit, service);
                unit.allow.insert(one.clone(), vec![name.clone()]);
                Target::One(name)
            }
            many if by_client => {
                for name in many {
                    self.keep(name);
                    unit.allow.insert(name.clone(), vec![name.clone()]);
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

    /// Whether clients may use an upstream with the servers of a backend.
    fn is_open(&self, backend: &str) -> bool {
        let opens = |list: &List| list.iter().any(|(_, v)| *v == Verdict::Accept);
        let mut assigned = self.assigned.iter();
        let is_merged = self.merged.iter().any(|(merged, _)| merged == backend);
        is_merged || assigned.any(|other| other.backend == backend && opens(&other.opens))
    }

    /// Returns the name of the upstream that a backend becomes for the clients of a unit. Units
    /// that make the backend available to the same clients share the upstream. If the clients do
    /// not depend on certificates, this applies to listeners with and without certificates.
    fn assign(&mut self, backend: &str, unit: &Unit, service: &Service) -> String {
        let mut opens: List = unit
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
        if opens.iter().all(|(_, verdict)| *verdict == Verdict::Refuse) {
            opens = always(Verdict::Refuse);
        }
        let by_certificate = opens
            .iter()
            .any(|(predicate, _)| predicate.needs_certificate());
        let found = self.assigned.iter().find(|assigned| {
            assigned.backend == backend
                && (!by_certificate || assigned.certificates == service.certificates)
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
        let mut sources: Vec<Backend> = self
            .backends
            .iter()
            .filter(|backend| used.contains(&backend.name))
            .cloned()
            .collect();
        for source in &mut sources {
            if with_names(source)
                && let Some(place) = &source.place
            {
                source.table.note(place.differs(
                    "client rules select servers by name, so each host name is one server, and the \
                     resolver of the operating system looks it up when connecting: `discovery` does \
                     not apply",
                ));
            }
        }
        let has_discovered =
            |source: &&Backend| source.servers.iter().any(ServerLine::is_discovered);
        let discovered = sources.iter().find(has_discovered);
        // What the servers receive must not change. All other settings may be those of one
        // backend.
        let same = |a: &Backend, b: &Backend| {
            a.tls == b.tls && a.table.get("proxy_protocol") == b.table.get("proxy_protocol")
        };
        let quoted: Vec<_> = used.iter().map(|name| format!("`{name}`")).collect();
        let has_same = sources.iter().all(|other| same(&sources[0], other));
        if discovered.is_some() || !has_same {
            let reason = match discovered {
                Some(source) => format!(
                    "client rules cannot choose between {}, because the servers of `{}` are \
                     discovered",
                    quoted.join(" and "),
                    source.name
                ),
                None => format!(
                    "its clients use {} with different `tls` or `proxy_protocol`, but a listener \
                     has one upstream for them: give the backends the same settings, or use a \
                     listener for each",
                    quoted.join(", ")
                ),
            };
            if let Some(place) = &service.place {
                service.table.note(place.left_out(&reason));
            }
            if !service.refused.contains(&reason) {
                service.refused.push(reason);
            }
            unit.list = always(Verdict::Refuse);
            return Target::Refuse;
        }
        if let Some(check) = common_check(&sources)
            && sources[0].table.get("health_check") != Some(&check)
        {
            let reason = format!(
                "the health checks of {} differ: these servers are only checked for whether they \
                 accept connections, or not at all if one of the backends checks MySQL",
                quoted.join(" and ")
            );
            let place = sources[0].place.as_ref().or(service.place.as_ref());
            let note = place.map(|place| place.differs(reason));
            let table = &mut sources[0].table;
            table.notes.extend(note);
            table.set("health_check", check);
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
            merged
                .comments
                .push(format!("The settings are those of `{}`.", sources[0].name));
        }
        for other in &sources[1..] {
            let is_difference = |note: &&Note| note.kind == Kind::Differs;
            let own = other.table.notes.iter().filter(is_difference).cloned();
            merged.table.notes.extend(own);
            let notes = lost_settings(&name, &sources[0], other, service.place.as_ref());
            merged.table.notes.extend(notes);
        }
        let mut names = Names::default();
        for source in &sources {
            for line in &source.servers {
                let ServerLine::Server {
                    name: server,
                    table,
                } = line
                else {
                    continue;
                };
                let server = names.unique(&format!("{}.{server}", source.name));
                let allow = unit.allow.entry(source.name.clone()).or_default();
                allow.push(format!("{name}/{server}"));
                merged.servers.push(ServerLine::Server {
                    name: server,
                    table: table.clone(),
                });
            }
        }
        self.upstreams.push(merged);
        let backends = used.iter().cloned();
        self.merged
            .extend(backends.map(|backend| (backend, name.clone())));
        Target::One(name)
    }

    /// Returns all upstreams, including those that no listener uses, and the backends that
    /// became part of a merged upstream, with its name.
    pub(super) fn finish(mut self) -> (Vec<Backend>, Vec<(String, String)>) {
        let rest: Vec<_> = self
            .backends
            .iter()
            .map(|backend| backend.name.clone())
            .collect();
        for name in rest {
            let is_merged = self.merged.iter().any(|(backend, _)| *backend == name);
            if !is_merged && self.has_servers(&name) {
                self.keep(&name);
            }
        }
        (self.upstreams, self.merged)
    }
}

/// The health check of an upstream for the servers of several backends, if these check their servers
/// in different ways. The probes of one backend could fail on the servers of another, for example at
/// another port.
fn common_check(sources: &[Backend]) -> Option<Value> {
    type Keys = [(&'static str, Value)];
    const TIMING: [&str; 4] = ["interval", "timeout", "rise", "fall"];
    fn keys(backend: &Backend) -> &Keys {
        match backend.table.get("health_check") {
            Some(Value::Table(keys)) => keys,
            _ => &[],
        }
    }
    let is_tcp = |name: &str, value: &Value| {
        name == "type" && [Value::text("tcp"), Value::text("none")].contains(value)
    };
    let probe = |backend| -> Vec<_> {
        let keys = keys(backend).iter();
        keys.filter(|(name, value)| !TIMING.contains(name) && !is_tcp(name, value))
            .collect()
    };
    if sources
        .iter()
        .all(|other| probe(other) == probe(&sources[0]))
    {
        return None;
    }
    // MySQL blocks hosts whose probes do not log in.
    let has_mysql = |backend| keys(backend).contains(&("type", Value::text("mysql")));
    if sources.iter().any(has_mysql) {
        return Some(Value::Table(vec![("type", Value::text("none"))]));
    }
    if probe(&sources[0]).is_empty() {
        return None;
    }
    let timing = keys(&sources[0]).iter();
    let timing = timing.filter(|(name, _)| TIMING.contains(name)).cloned();
    let tcp = [("type", Value::text("tcp"))].into_iter();
    Some(Value::Table(tcp.chain(timing).collect()))
}

/// Replaces servers that are looked up in DNS by one server with the host name: client rules select
/// servers by name, and the names of discovered servers are unknown. Returns whether this replaces
/// `discovery`.
fn with_names(backend: &mut Backend) -> bool {
    for line in &mut backend.servers {
        let ServerLine::Server { table, .. } = line else {
            continue;
        };
        if let Some(address) = table.get("dns").cloned() {
            table.remove("dns");
            table.set("address", address);
        }
    }
    let has_discovery = backend.table.get("discovery").is_some();
    let is_fixed = !backend.servers.iter().any(ServerLine::is_discovered);
    if is_fixed {
        backend.table.remove("discovery");
    }
    has_discovery && is_fixed
}
