//! Listeners of a section, with the limits and access rules that apply to them.

use std::collections::{HashMap, HashSet};

use super::{
    super::{
        access::{List, TooMany, Verdict, always, chain, product},
        model::{Conditional, Limits, Place, Rate, Service},
        names::Names,
        toml::inline,
    },
    acl::{Limit, Tracked},
    bind::{self, Bind},
    proxy::Front,
    rules::{self, LimitRule},
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
            server_names: bind.names.clone(),
            home: default.map(str::to_owned),
            access: always(Verdict::Refuse),
            ..Service::default()
        };
        services.push((bind.clone(), service));
    }
    let mut services: Vec<_> = services.into_iter().map(|(_, service)| service).collect();
    let binds: Vec<_> = services
        .iter()
        .flat_map(|service| service.binds.clone())
        .collect();
    for service in &mut services {
        // An IPv6 address does not accept IPv4 if another listener has the port.
        let has_v4 = |bind: &String| {
            let port = bind.strip_prefix("[::]:");
            port.is_none_or(|port| binds.contains(&format!("0.0.0.0:{port}")))
        };
        if service.binds.iter().all(has_v4) {
            service
                .table
                .notes
                .retain(|note| note.reason != bind::V6_ONLY);
        }
    }
    services
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

/// Applies the limits of the rules to a listener, whose access list is complete.
pub(crate) fn limits(service: &mut Service, limits: Vec<LimitRule>) -> Result<(), TooMany> {
    for rule in limits {
        if let Limit::Rate(Tracked::Proxy, ..) | Limit::Open(Tracked::Proxy, _) = rule.limit {
            service.refused.push(LIMIT.to_owned());
            service.table.note(rule.place.left_out(
                "before the PROXY header, `src` is the address of the proxy: there is no limit for \
                 each proxy. In the stage `session`, `src` is the address of the client",
            ));
            continue;
        }
        let Some(applies) = rule.applies else {
            service.table.note(rule.place.left_out(
                "the limit applies to some clients only, and the condition that selects them has no \
                 equivalent: no client is limited",
            ));
            continue;
        };
        match extent(&service.access, &applies)? {
            Extent::All => limit_all(service, rule.limit, &rule.place),
            Extent::Some => limit_some(service, rule.limit, &rule.place, applies),
            Extent::None => service
                .table
                .note(rule.place.remark("the limit applies to no client")),
        }
    }
    Ok(())
}

/// How many of the clients that are not refused a limit applies to.
enum Extent {
    All,
    Some,
    None,
}

fn extent(access: &List, applies: &List) -> Result<Extent, TooMany> {
    let access = access.iter().cloned();
    let access: Vec<_> = access
        .map(|(predicate, verdict)| (predicate, vec![verdict]))
        .collect();
    let clients = product(&access, applies)?;
    let served = clients
        .iter()
        .filter_map(|(_, verdicts)| match verdicts.as_slice() {
            [Verdict::To(_), limited] => Some(*limited == Verdict::Accept),
            _ => None,
        });
    let served: Vec<bool> = served.collect();
    Ok(if served.iter().all(|limited| *limited) {
        Extent::All
    } else if served.contains(&true) {
        Extent::Some
    } else {
        Extent::None
    })
}

/// Applies a limit to all clients.
fn limit_all(service: &mut Service, limit: Limit, place: &Place) {
    if let Limit::Rate(Tracked::Source, number, period) = limit {
        source_rate(service, rules::rate(number, period), place);
        note_bucket(service, limit, place);
        return;
    }
    let Some(limits) = per_client(service, limit) else {
        return refuse(service, place);
    };
    if let (Some(new), Some((old, first))) = (limits.rate, &service.rate_of)
        && *old != new
    {
        let (unused, used) = if new.rate < old.rate {
            (first.clone(), new)
        } else {
            (place.clone(), *old)
        };
        service.table.note(unused.left_out(one_rate(used)));
    }
    service.limits = service.limits.stricter(limits);
    if let Some(new) = limits.rate
        && service.limits.rate == Some(new)
    {
        service.rate_of = Some((new, place.clone()));
    }
    service.limited_by.push(place.clone());
    note_bucket(service, limit, place);
}

/// Applies a limit to some clients: the rules of these clients have it.
fn limit_some(service: &mut Service, limit: Limit, place: &Place, applies: List) {
    if let Limit::Rate(Tracked::Source, number, period) = limit
        && service.certificates
    {
        let rate = inline(&rules::rate(number, period).value());
        service.table.note(place.left_out(format!(
            "a rate of new connections per address applies to all clients of a listener, and this \
             limit applies to some: no client is limited. `source_rate_limit = {rate}` limits all"
        )));
        return;
    }
    let limits = match limit {
        // The address identifies the client.
        Limit::Rate(Tracked::Source, number, period) => Some(Limits {
            rate: Some(rules::rate(number, period)),
            max_conns: None,
        }),
        limit => per_client(service, limit),
    };
    let Some(limits) = limits else {
        return refuse(service, place);
    };
    service.limited_by.push(place.clone());
    service.conditional.push(Conditional {
        limits,
        applies,
        place: place.clone(),
    });
    note_bucket(service, limit, place);
}

/// Returns the limits of a client rule, or `None` if there is no equivalent.
fn per_client(service: &Service, limit: Limit) -> Option<Limits> {
    match limit {
        Limit::Rate(Tracked::CommonName, number, period) if service.certificates => Some(Limits {
            rate: Some(rules::rate(number, period)),
            max_conns: None,
        }),
        Limit::Open(key, number)
            if key == Tracked::Source || (key == Tracked::CommonName && service.certificates) =>
        {
            Some(Limits {
                rate: None,
                max_conns: Some(number.max(1)),
            })
        }
        _ => None,
    }
}

/// Why a limit closes a listener.
const LIMIT: &str = "a limit of the source has no equivalent";

fn refuse(service: &mut Service, place: &Place) {
    service.refused.push(LIMIT.to_owned());
    service
        .table
        .note(place.left_out("limits are per source or per client certificate"));
}

/// Explains how limits differ.
fn note_bucket(service: &mut Service, limit: Limit, place: &Place) {
    match limit {
        Limit::Rate(_, number, period) => service.table.note(place.remark(format!(
            "a token bucket: {number} connections at once, then {number} per {} s",
            period as f64 / 1000.0
        ))),
        Limit::Open(Tracked::Source, _) if service.certificates => {
            service.table.note(place.differs(
                "`max_conns` counts the connections of each client certificate, the source those of \
                 each address",
            ));
        }
        Limit::Open(..) => {}
    }
}

fn one_rate(used: Rate) -> String {
    format!(
        "there is one limit on the rate of new connections: the lowest rate is used, {}",
        inline(&used.value())
    )
}

/// Sets `source_rate_limit`, unless there is a stricter one.
fn source_rate(service: &mut Service, rate: Rate, place: &Place) {
    let used = match service.source_rate.take() {
        Some((other, first)) if other != rate => {
            let (used, unused) = if other.rate <= rate.rate {
                ((other, first), place.clone())
            } else {
                ((rate, place.clone()), first)
            };
            service.table.note(unused.left_out(one_rate(used.0)));
            used
        }
        _ => (rate, place.clone()),
    };
    service.table.set("source_rate_limit", used.0.value());
    service.source_rate = Some(used);
}

/// Applies the rules of each backend to the clients that are sent to it.
pub(crate) fn through(list: List, backend: &str, own: &List) -> Result<List, TooMany> {
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
    chain(&list, &to, &own)
}

/// Returns the list that accepts the clients that `list` sends to `backend` and that `applies`
/// accepts.
pub(crate) fn limited_at(list: &List, backend: &str, applies: &List) -> Result<List, TooMany> {
    let is_sent = |verdict: &Verdict| matches!(verdict, Verdict::To(to) if to == backend);
    let sent = list.iter().map(|(predicate, verdict)| {
        let verdict = match verdict {
            verdict if is_sent(verdict) => Verdict::Accept,
            _ => Verdict::Refuse,
        };
        (predicate.clone(), verdict)
    });
    chain(&sent.collect(), &Verdict::Accept, applies)
}
