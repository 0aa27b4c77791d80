//! Ranges of values in the configuration, which the source programs do not have.

use super::model::{Backend, Imported, ServerLine, Table, Value};

/// Largest number of connections or failures that is written.
const LARGEST: u64 = 1_000_000_000;

/// Replaces values that are out of range by the nearest valid value. A duration of zero is removed
/// where zero is not valid, so that the default applies.
pub(crate) fn clamp(imported: &mut Imported) {
    table(&mut imported.process);
    for service in &mut imported.services {
        table(&mut service.table);
        let conditional = service
            .conditional
            .iter_mut()
            .map(|other| &mut other.limits);
        for limits in conditional.chain([&mut service.limits]) {
            if let Some(max_conns) = &mut limits.max_conns {
                *max_conns = (*max_conns).min(LARGEST);
            }
        }
    }
    for Backend {
        table: own,
        servers,
        ..
    } in &mut imported.backends
    {
        table(own);
        for line in servers {
            if let ServerLine::Server { table: server, .. } = line {
                table(server);
            }
        }
    }
}

fn table(table: &mut Table) {
    keys(&mut table.keys);
}

fn keys(keys_of: &mut Vec<(&'static str, Value)>) {
    keys_of.retain(|(key, value)| !(is_positive(key) && *value == Value::text("0s")));
    for (key, value) in keys_of {
        match value {
            Value::Integer(number) => *number = within(key, *number),
            Value::Table(inner) => keys(inner),
            _ => {}
        }
    }
}

/// Whether a duration cannot be zero.
fn is_positive(key: &str) -> bool {
    matches!(
        key,
        "idle_timeout"
            | "handshake_timeout"
            | "half_close_timeout"
            | "connect_timeout"
            | "interval"
            | "timeout"
            | "fail_timeout"
    )
}

fn within(key: &str, number: u64) -> u64 {
    match key {
        "workers" => number.clamp(1, 1024),
        "weight" | "port" => number.clamp(1, 65_535),
        "rise" | "fall" => number.clamp(1, 1000),
        "max_intermediates" => number.min(64),
        _ => number.min(LARGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, Value, table};

    #[test]
    fn values_are_in_their_range() {
        let mut limited = Table::default();
        limited.set("weight", Value::Integer(70_000));
        limited.set("max_conns", Value::Integer(u64::MAX));
        limited.set("idle_timeout", Value::text("0s"));
        limited.set("max_lifetime", Value::text("0s"));
        let check = vec![
            ("rise", Value::Integer(0)),
            ("interval", Value::text("0s")),
            ("timeout", Value::text("1s")),
        ];
        limited.set("health_check", Value::Table(check));
        table(&mut limited);
        let check = vec![("rise", Value::Integer(1)), ("timeout", Value::text("1s"))];
        let expected = [
            ("weight", Value::Integer(65_535)),
            ("max_conns", Value::Integer(1_000_000_000)),
            ("max_lifetime", Value::text("0s")),
            ("health_check", Value::Table(check)),
        ];
        assert_eq!(limited.keys, expected);
    }
}
