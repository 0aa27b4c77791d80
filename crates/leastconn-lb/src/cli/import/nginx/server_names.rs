//! Several `server` blocks with one address: `server_name` selects the block of a client.

use super::{
    super::{
        access::{Condition, Key, Predicate, Verdict, always, when},
        model::{Place, Service, Table},
        regex::{self, Pattern},
    },
    parser::Directive,
};

/// Returns the names in `server_name` of a `server` block.
pub(super) fn of(block: &Directive) -> Vec<String> {
    let lines = block.children().iter();
    let lines = lines.filter(|line| line.name() == "server_name");
    lines.flat_map(Directive::arguments).cloned().collect()
}

/// Adds the clients with these server names to the listener of the first block with the same
/// address.
pub(super) fn add(
    first: &mut Service,
    mut other: Service,
    names: &[String],
    place: &Place,
) -> Result<(), String> {
    let mut patterns = Vec::new();
    for name in names {
        let found = match name.strip_prefix('~') {
            Some(expression) => regex::patterns(expression),
            None => Some(match (name.strip_prefix("*."), name.strip_prefix('.')) {
                (Some(domain), _) => vec![Pattern::Below(domain.to_owned())],
                (_, Some(domain)) => vec![
                    Pattern::Exact(domain.to_owned()),
                    Pattern::Below(domain.to_owned()),
                ],
                _ => vec![Pattern::Exact(name.clone())],
            }),
        };
        let found = found.and_then(|found| {
            let names = found.iter().map(|pattern| pattern.names(Key::Sni));
            names.collect::<Option<Vec<_>>>()
        });
        match found {
            Some(names) => patterns.extend(names.concat()),
            None => first.table.note(place.left_out(format!(
                "the server name {name:?} has no equivalent: its clients are those of the first \
                 `server` block with this address"
            ))),
        }
    }
    let tls = |service: &Service, keys: &[&str]| {
        let table = service.tls.as_ref();
        let values = keys
            .iter()
            .map(|key| table.and_then(|tls| tls.get(key)).cloned());
        values.collect::<Vec<_>>()
    };
    let verification = ["client_auth", "client_ca", "crl"];
    let is_verified_alike = tls(first, &verification) == tls(&other, &verification);
    let refused = if first.tls.is_none() {
        Some("without TLS, a listener cannot choose by server name".to_owned())
    } else if other.certificates && !is_verified_alike {
        Some("clients are verified in the same way for all server names".to_owned())
    } else {
        other.refused.first().cloned()
    };
    let access = match refused {
        Some(reason) => {
            let reason = format!("{reason}; the clients with these server names are refused");
            first.table.note(place.left_out(reason));
            always(Verdict::Refuse)
        }
        None => {
            let certificates = ["cert", "key"];
            if tls(first, &certificates) != tls(&other, &certificates) {
                first.table.note(place.left_out(
                    "a listener has one certificate: that of the first `server` block with this \
                     address",
                ));
            }
            if first.certificates && !other.certificates {
                first.table.note(place.differs(
                    "clients need a certificate as in the first `server` block with this address",
                ));
            }
            if first.limits != other.limits || !same_settings(&first.table, &other.table) {
                first.table.note(place.differs(
                    "timeouts are those of the first `server` block with this address, and limits \
                     are the strictest of these blocks",
                ));
                first.limits = first.limits.stricter(other.limits);
                first.limited_by.append(&mut other.limited_by);
            }
            other.access
        }
    };
    first.table.notes.append(&mut other.table.notes);
    if patterns.is_empty() {
        return Ok(());
    }
    let named = Condition::Is(Predicate::new(Key::Sni, patterns));
    first.access = when(&named, &access, &first.access)
        .map_err(|_| format!("{}: too many server names", place.file))?;
    Ok(())
}

fn same_settings(a: &Table, b: &Table) -> bool {
    let has = |a: &Table, b: &Table| a.keys.iter().all(|(key, value)| b.get(key) == Some(value));
    has(a, b) && has(b, a)
}
