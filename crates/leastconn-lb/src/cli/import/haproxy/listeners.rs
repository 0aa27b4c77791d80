//! Listeners of a section, with the limits and access rules that apply to them.

use super::{
    super::{
        access::{List, Verdict, always, chain},
        model::{Place, Service},
        names::Names,
    },
    acl::{Limit, Tracked},
    bind::Bind,
    proxy::Front,
    rules,
};

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
                service.limited_by.push(place.clone());
                true
            }
            (Limit::Open(_, number), Tracked::Source) if !service.certificates => {
                service.limits.max_conns = Some(number.max(1));
                service.limited_by.push(place.clone());
                true
            }
            (Limit::Open(_, number), Tracked::Source) => {
                service.limits.max_conns = Some(number.max(1));
                service.limited_by.push(place.clone());
                service.table.note(place.left_out(
                    "`max_conns` counts the connections of each client certificate, the source \
                     those of each address",
                ));
                true
            }
            (Limit::Open(_, number), Tracked::CommonName) if service.certificates => {
                service.limits.max_conns = Some(number.max(1));
                service.limited_by.push(place.clone());
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
            service.table.note(place.left_out(
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
