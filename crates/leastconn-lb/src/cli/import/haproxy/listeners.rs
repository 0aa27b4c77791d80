//! Listeners of a section, with the limits and access rules that apply to them.

use std::collections::{HashMap, HashSet};

use super::{
    super::{
        access::{List, Verdict, always, chain},
        model::{Limits, Place, Rate, Service},
        names::Names,
    },
    acl::{Limit, Tracked},
    bind::{self, Bind},
    proxy::Front,
    rules,
    sections::Proxy,
};

/// Returns the listeners of a section. `bind` lines with the same settings become one listener.
pub(crate) fn services(front: &Front, names: &mut Names, default: Option<&str>) -> Vec<Service> {
    let mut services: Vec<(Bind, Service)> = Vec::new();
    let binds = match front.rules.compares_port() {
        true => front.binds.iter().flat_map(Bind::by_port).collect(),
        false => front.binds.clone(),
    };
    for bind in &binds {
        let found = services.iter_mut().find(|(first, _)| {
            let has_ports = !front.rules.compares_port() || first.ports() == bind.ports();
            first.same_settings(bind) && has_ports
        });
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
            place: front.place.clone(),
            binds: bind.addresses.clone(),
            table,
            tls: bind.tls.clone(),
            certificates: bind.certificates,
            refused: bind.refused.clone(),
            home: default.map(str::to_owned),
            access: always(Verdict::Refuse),
            ..Service::default()
        };
        services.push((bind.clone(), service));
    }
    services.into_iter().map(|(_, service)| service).collect()
}

/// Returns the ports of a listener. Empty if the address of a client's connection may differ.
pub(crate) fn ports(service: &Service) -> Vec<u16> {
    let has_header = service.table.get("proxy_protocol").is_some();
    let ports = service.binds.iter().map(|address| bind::port(address));
    let ports = ports.collect::<Option<_>>().unwrap_or_default();
    if has_header { Vec::new() } else { ports }
}

/// The ports that the clients of each section with servers connect to.
pub(crate) struct Ports(HashMap<String, HashSet<Option<u16>>>);

impl Ports {
    pub(crate) fn new(proxies: &[Proxy]) -> Self {
        let mut ports: HashMap<String, HashSet<Option<u16>>> = HashMap::new();
        for proxy in proxies.iter().filter(|proxy| proxy.is_front) {
            let lines = || proxy.lines.iter();
            let binds = lines().filter(|line| line.word(0) == "bind");
            let addresses = binds.clone().flat_map(|line| line.word(1).split(','));
            let own: HashSet<_> = addresses.map(bind::port).collect();
            let has_header = binds
                .flat_map(|line| &line.words)
                .any(|w| w == "accept-proxy");
            let own = if has_header { [None].into() } else { own };
            let targets = lines()
                .filter(|line| matches!(line.word(0), "use_backend" | "default_backend"))
                .map(|line| line.word(1));
            let targets: Vec<_> = targets.chain([proxy.name.as_str()]).collect();
            // The section may use any backend.
            let is_dynamic = targets.iter().any(|target| target.contains("%["));
            let backends = proxies.iter().filter(|other| other.is_back);
            let used = backends
                .map(|backend| &backend.name)
                .filter(|name| is_dynamic || targets.contains(&name.as_str()));
            for name in used {
                ports.entry(name.clone()).or_default().extend(&own);
            }
        }
        Self(ports)
    }

    /// Returns the port if all clients of a section connect to the same one.
    pub(crate) fn of(&self, name: &str) -> Option<u16> {
        let ports: Vec<_> = self.0.get(name)?.iter().collect();
        match ports.as_slice() {
            [port] => **port,
            _ => None,
        }
    }
}

/// Applies the limits of the rules to a listener.
pub(crate) fn limits(service: &mut Service, limits: &[(Limit, Place, bool)]) {
    for (limit, place, for_all) in limits {
        let key = rules::limit_key(*limit);
        let applied = match (*limit, key) {
            (Limit::Rate(_, number, period), Tracked::Source) => {
                source_rate(service, rules::rate(number, period), place);
                true
            }
            (Limit::Rate(_, number, period), Tracked::CommonName) if service.certificates => {
                let rate = rules::rate(number, period);
                if service.limits.rate.is_some_and(|other| other != rate) {
                    service.table.note(place.left_out(ONE_RATE));
                }
                let rate = Limits {
                    rate: Some(rate),
                    max_conns: None,
                };
                service.limits = service.limits.stricter(rate);
                service.limited_by.push(place.clone());
                true
            }
            (Limit::Open(_, number), Tracked::Source | Tracked::CommonName)
                if key == Tracked::Source || service.certificates =>
            {
                let max_conns = Limits {
                    rate: None,
                    max_conns: Some(number.max(1)),
                };
                service.limits = service.limits.stricter(max_conns);
                service.limited_by.push(place.clone());
                if key == Tracked::Source && service.certificates {
                    service.table.note(place.left_out(
                        "`max_conns` counts the connections of each client certificate, the \
                         source those of each address",
                    ));
                }
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
            service.table.note(place.differs(
                "the limit applies to all clients of the listener, without the exceptions of \
                     the source",
            ));
        } else if let Limit::Rate(_, number, period) = limit {
            service.table.note(place.remark(format!(
                "a token bucket: {number} connections at once, then {number} per {} s",
                *period as f64 / 1000.0
            )));
        }
    }
}

/// Sets `source_rate_limit`, unless there is a stricter one.
fn source_rate(service: &mut Service, rate: Rate, place: &Place) {
    let rates = &mut service.source_rate;
    if rates.is_some_and(|other| other != rate) {
        service.table.note(place.left_out(ONE_RATE));
    }
    let strictest = rates
        .filter(|other| other.rate <= rate.rate)
        .unwrap_or(rate);
    *rates = Some(strictest);
    service.table.set("source_rate_limit", strictest.value());
}

/// Why one of two rates is not translated.
const ONE_RATE: &str = "there is one limit on the rate of new connections: the lowest rate is used";

/// Applies the rules of each backend to the clients that are sent to it.
pub(crate) fn through(list: List, backend: &str, own: &List) -> Result<List, String> {
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
