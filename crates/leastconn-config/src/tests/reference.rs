//! The reference in `docs/` documents exactly the keys of the schema.

use crate::schema::SCHEMA;

const REFERENCE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/reference/configuration.md"
));

/// The section of the reference about one table.
fn section(path: &str) -> &'static str {
    let heading = match path {
        "" => "## The file".to_owned(),
        "defaults" => "## `[defaults.client]`".to_owned(),
        "listener" | "upstream" | "client" => format!("## `[[{path}]]`"),
        "process" | "log" | "admin" | "fleet" | "defaults.client" => format!("## `[{path}]`"),
        nested => format!("### `{nested}`"),
    };
    let start = REFERENCE
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("the reference has no heading {heading}"));
    let body = &REFERENCE[start + 1..];
    let end = body.find("\n#").unwrap_or(body.len());
    &body[..end]
}

#[test]
fn every_key_is_in_the_reference() {
    for (path, key) in SCHEMA.keys() {
        // The reference documents `rate_limit` only in `client`. In `defaults.client` it has
        // the same keys.
        let path = match path {
            "defaults.client.rate_limit" => "client.rate_limit",
            path => path,
        };
        let section = section(path);
        assert!(
            section.contains(&format!("| `{key}` |"))
                || section.contains(&format!("`[{key}"))
                || section.contains(&format!("`[[{key}]]`")),
            "`{key}` of `{path}` is not in the reference"
        );
    }
}

#[test]
fn reference_has_no_unknown_keys() {
    let keys: Vec<_> = SCHEMA.keys().map(|(_, key)| key).collect();
    for row in REFERENCE
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
    {
        let key = row.split('`').next().unwrap();
        assert!(keys.contains(&key), "the schema has no key `{key}`");
    }
}

#[test]
fn reference_has_the_schema_defaults() {
    fn check(schema: &serde_json::Value) {
        for (key, property) in crate::schema::properties(schema).into_iter().flatten() {
            let Some(default) = property.get("default") else {
                continue;
            };
            let row = format!("| `{default}` |");
            let documented = REFERENCE
                .lines()
                .any(|line| line.starts_with(&format!("| `{key}` |")) && line.contains(&row));
            assert!(documented, "{key}: {row}");
        }
    }
    check(SCHEMA.root());
    for (_, definition) in SCHEMA.root()["$defs"].as_object().unwrap() {
        check(definition);
    }
}
