//! Settings that a backend loses when its servers become part of a merged upstream.

use super::super::{
    model::{Backend, Note, Place, Table, Value},
    toml::inline,
};

/// Returns a note for each line of the source whose setting of `backend` differs from that of
/// `base`, because the upstream `merged` has the settings of `base`. A setting without a line is
/// noted at the line that defines the backend, or else at `listener`.
pub(super) fn lost_settings(
    merged: &str,
    base: &Backend,
    backend: &Backend,
    listener: Option<&Place>,
) -> Vec<Note> {
    let mut lines: Vec<(&Place, Vec<String>)> = Vec::new();
    for key in differing(&base.table, &backend.table) {
        let origin = backend.origins.iter().find(|(name, _)| *name == key);
        let place = origin
            .map(|(_, place)| place)
            .or(backend.place.as_ref())
            .or(listener);
        let Some(place) = place else { continue };
        let value = |table: &Table| {
            let found = flat(table).into_iter().find(|(name, _)| *name == key);
            found.map_or("unset".to_owned(), |(_, value)| inline(&value))
        };
        let key = format!(
            "`{key}` is {}, not {}",
            value(&base.table),
            value(&backend.table)
        );
        match lines.iter_mut().find(|(line, _)| *line == place) {
            Some((_, keys)) => keys.push(key),
            None => lines.push((place, vec![key])),
        }
    }
    let notes = lines.into_iter().map(|(place, keys)| {
        place.differs(format!(
            "the servers of `{}` are in the upstream `{merged}`, which has the settings of `{}`: {}",
            backend.name,
            base.name,
            keys.join(", ")
        ))
    });
    notes.collect()
}

/// Returns the keys with different values, with those of inline tables.
fn differing(a: &Table, b: &Table) -> Vec<String> {
    let (a, b) = (flat(a), flat(b));
    let value = |table: &[(String, Value)], key: &str| {
        let found = table.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.clone())
    };
    let mut keys: Vec<String> = Vec::new();
    for (key, _) in b.iter().chain(&a) {
        if !keys.contains(key) && value(&a, key) != value(&b, key) {
            keys.push(key.clone());
        }
    }
    keys
}

fn flat(table: &Table) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (key, value) in &table.keys {
        match value {
            Value::Table(inner) => {
                let inner = inner.iter();
                flat.extend(inner.map(|(name, value)| (format!("{key}.{name}"), value.clone())));
            }
            value => flat.push(((*key).to_owned(), value.clone())),
        }
    }
    flat
}
