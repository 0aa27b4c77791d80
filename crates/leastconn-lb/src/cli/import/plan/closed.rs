//! Restrictions of listeners that no client may use.

use super::super::{
    access::Verdict,
    model::{Limits, Service, Table, Value},
    toml::inline,
};

/// Maximum number of decisions in a comment.
const LARGEST: usize = 200;

/// Returns the decisions and limits of the source, so that opening the listener can restore them.
/// Empty if the source sends all clients to one upstream without a limit.
pub(super) fn decisions(service: &Service) -> Vec<String> {
    let is_plain = matches!(service.access.as_slice(), [] | [_]);
    if is_plain && service.limits == Limits::default() {
        return Vec::new();
    }
    let mut lines: Vec<_> = service
        .access
        .iter()
        .take(LARGEST)
        .map(|(predicate, verdict)| {
            let keys = predicate
                .keys()
                .map(|(key, values)| (key.name(), Value::strings(values)));
            let clients = if predicate.matches_all() {
                "all other clients".to_owned()
            } else {
                format!("clients with {}", inline(&Value::Table(keys.collect())))
            };
            match verdict {
                Verdict::To(upstream) => format!("{clients}: {upstream}"),
                Verdict::Accept | Verdict::Refuse => format!("{clients}: refused"),
            }
        })
        .collect();
    let more = service.access.len().saturating_sub(LARGEST);
    if more > 0 {
        lines.push(format!("and {more} more, see the source"));
    }
    let mut limits = Table::default();
    if let Some(rate) = service.limits.rate {
        limits.set("rate_limit", rate.value());
    }
    if let Some(max_conns) = service.limits.max_conns {
        limits.set("max_conns", Value::Integer(max_conns));
    }
    let limits = limits.keys.iter();
    lines.extend(
        limits.map(|(key, value)| format!("each of these rules: {key} = {}", inline(value))),
    );
    lines
}
