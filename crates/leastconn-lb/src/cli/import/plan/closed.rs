//! Restrictions of listeners that no client may use.

use super::super::{
    access::{Predicate, Verdict},
    model::{Limits, Service, Value},
    toml::inline,
};

/// Maximum number of decisions in a comment.
const LARGEST: usize = 200;

/// Returns the decisions and limits of the source, so that opening the listener can restore them.
/// Empty if the source sends all clients to one upstream without a limit.
pub(super) fn decisions(service: &Service) -> Vec<String> {
    let access = match service.described.as_slice() {
        [] => &service.access,
        _ => &service.described,
    };
    let is_plain = matches!(access.as_slice(), [] | [_]);
    let is_unlimited = service.limits == Limits::default() && service.conditional.is_empty();
    if is_plain && is_unlimited {
        return Vec::new();
    }
    let is_open = |(_, verdict): &(Predicate, Verdict)| matches!(verdict, Verdict::To(_));
    let has_targets = access.iter().any(is_open);
    let mut lines: Vec<_> = access
        .iter()
        .take(if has_targets { LARGEST } else { 0 })
        .map(|(predicate, verdict)| {
            let clients = clients(predicate);
            match verdict {
                Verdict::To(upstream) => format!("{clients}: {upstream}"),
                Verdict::Accept | Verdict::Refuse => format!("{clients}: refused"),
            }
        })
        .collect();
    let more = access.len().saturating_sub(LARGEST);
    if more > 0 && has_targets {
        lines.push(format!("and {more} more, see the source"));
    }
    let limits = limits(service.limits).into_iter();
    lines.extend(limits.map(|limit| format!("each of these rules: {limit}")));
    for conditional in &service.conditional {
        let limits = self::limits(conditional.limits).join(", ");
        let entries = conditional.applies.iter().take(LARGEST);
        lines.extend(entries.map(|(predicate, verdict)| {
            let not = match verdict {
                Verdict::Accept => "",
                _ => "not ",
            };
            format!("{}: {not}{limits}", clients(predicate))
        }));
    }
    lines
}

fn clients(predicate: &Predicate) -> String {
    if predicate.matches_all() {
        return "all other clients".to_owned();
    }
    let keys = predicate.keys();
    let keys = keys.map(|(key, values)| (key.name(), Value::strings(values)));
    format!("clients with {}", inline(&Value::Table(keys.collect())))
}

fn limits(limits: Limits) -> Vec<String> {
    let rate = limits.rate.map(|rate| ("rate_limit", rate.value()));
    let max_conns = limits
        .max_conns
        .map(|limit| ("max_conns", Value::Integer(limit)));
    let limits = rate.into_iter().chain(max_conns);
    let limits = limits.map(|(key, value)| format!("{key} = {}", inline(&value)));
    limits.collect()
}
