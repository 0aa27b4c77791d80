//! The JSON schema of the configuration file, and look-ups in it.

use std::sync::LazyLock;

use schemars::{Schema, generate::SchemaSettings, transform::transform_subschemas};
use serde_json::{Map, Value};

use super::raw::Raw;

/// The schema that `leastconn-lb schema` prints. It describes the file before environment
/// variables are replaced.
pub fn schema() -> &'static Value {
    &WRITTEN
}

static WRITTEN: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = SCHEMA.root.clone();
    allow_variables(&mut schema);
    schema
});

pub(crate) static SCHEMA: LazyLock<Lookup> = LazyLock::new(Lookup::new);

/// The schema of the file after environment variables have been replaced, with an index of its
/// tables.
pub(crate) struct Lookup {
    root: Value,
    /// The path and the keys of each table.
    tables: Vec<(String, Vec<String>)>,
}

impl Lookup {
    fn new() -> Self {
        let schema = SchemaSettings::draft2020_12()
            .with_transform(plain)
            .into_generator()
            .into_root_schema_for::<Raw>();
        let mut lookup = Self {
            root: schema.to_value(),
            tables: Vec::new(),
        };
        let mut tables = Vec::new();
        lookup.collect(&lookup.root, "", &mut tables);
        lookup.tables = tables;
        lookup
    }

    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// Resolves a `$ref`.
    pub(crate) fn deref<'a>(&'a self, schema: &'a Value) -> &'a Value {
        schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| self.root.pointer(reference.strip_prefix('#')?))
            .unwrap_or(schema)
    }

    /// The paths of the tables that have this key.
    pub(crate) fn tables_with<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.tables
            .iter()
            .filter(move |(_, keys)| keys.iter().any(|known| known == key))
            .map(|(path, _)| &**path)
    }

    /// All keys, each with the path of its table.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tables
            .iter()
            .flat_map(|(path, keys)| keys.iter().map(move |key| (&**path, &**key)))
    }

    fn collect(&self, schema: &Value, path: &str, tables: &mut Vec<(String, Vec<String>)>) {
        let schema = self.deref(schema);
        if let Some(items) = schema.get("items") {
            self.collect(items, path, tables);
        }
        for alternative in list(schema, "anyOf") {
            self.collect(alternative, path, tables);
        }
        if let Some(properties) = properties(schema) {
            tables.push((path.to_owned(), properties.keys().cloned().collect()));
            for (key, property) in properties {
                self.collect(property, &join(path, key), tables);
            }
        }
    }
}

/// The path of a key in a table.
pub(crate) fn join(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}

/// The name of a table for messages: `[process]`, `[[listener]]`, `listener.tls`.
pub(crate) fn table_name(path: &str) -> String {
    match path {
        "" => "the top level".to_owned(),
        "listener" | "upstream" | "client" => format!("`[[{path}]]`"),
        "defaults.client" => format!("`[{path}]`"),
        nested if nested.contains('.') => format!("`{nested}`"),
        top => format!("`[{top}]`"),
    }
}

pub(crate) fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

pub(crate) fn list<'a>(schema: &'a Value, key: &str) -> &'a [Value] {
    schema
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], |list| list)
}

/// Removes `null`, which TOML does not have, and replaces the `format` of integers with a
/// `maximum`.
fn plain(schema: &mut Schema) {
    transform_subschemas(&mut plain, schema);
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = &types[..] {
            let one = one.clone();
            object.insert("type".into(), one);
        }
    }
    if let Some(Value::Array(alternatives)) = object.get_mut("anyOf") {
        alternatives.retain(|schema| schema.get("type").is_none_or(|name| name != "null"));
        if let [Value::Object(one)] = &alternatives[..] {
            let one = one.clone();
            object.remove("anyOf");
            for (key, value) in one {
                object.entry(key).or_insert(value);
            }
        }
    }
    if object.get("type").is_some_and(|name| name == "integer") {
        if object.remove("format").is_some_and(|name| name == "uint32") {
            object.entry("maximum").or_insert(u32::MAX.into());
        }
    } else if object.get("type").is_some_and(|name| name == "number") {
        object.remove("format");
    }
}

/// Accepts a string with environment variables wherever the schema accepts only fixed
/// words.
fn allow_variables(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for key in ["oneOf", "anyOf"] {
                if let Some(Value::Array(alternatives)) = object.get_mut(key)
                    && alternatives.iter().any(|one| one["const"].is_string())
                {
                    alternatives.push(serde_json::json!({
                        "description": "A string with `${NAME}` or `${NAME:-default}` that expands to one of the other values.",
                        "type": "string",
                        "pattern": "\\$\\{",
                    }));
                }
            }
            object.values_mut().for_each(allow_variables);
        }
        Value::Array(list) => list.iter_mut().for_each(allow_variables),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fixed words may occur only in `oneOf` and `anyOf`, because `allow_variables` looks nowhere
    /// else in the schema.
    #[test]
    fn fixed_words_may_be_variables() {
        fn check(schema: &Value, path: &str) -> usize {
            assert!(schema.get("enum").is_none(), "{path}");
            let mut found = 0;
            for key in ["oneOf", "anyOf"] {
                let alternatives = list(schema, key);
                if alternatives.iter().any(|one| one.get("const").is_some()) {
                    let last = alternatives.last().unwrap();
                    assert_eq!(last["pattern"], "\\$\\{", "{path}");
                    found += 1;
                }
            }
            match schema {
                Value::Object(object) => {
                    found += object
                        .iter()
                        .map(|(key, value)| check(value, &format!("{path}/{key}")))
                        .sum::<usize>()
                }
                Value::Array(list) => {
                    found += list.iter().map(|value| check(value, path)).sum::<usize>()
                }
                _ => {}
            }
            found
        }
        assert!(check(schema(), "") > 10);
        // `SCHEMA` is for files in which variables have been replaced: only fixed words are valid.
        let level = &SCHEMA.root()["$defs"]["level"];
        assert!(
            list(level, "oneOf")
                .iter()
                .all(|one| one["const"].is_string())
        );
    }

    #[test]
    fn match_needs_a_key() {
        let client = &schema()["$defs"]["client"]["properties"];
        assert_eq!(client["match"]["minProperties"], 1);
    }

    #[test]
    fn every_key_is_described() {
        fn check(schema: &Value, path: &str) {
            for (key, property) in properties(schema).into_iter().flatten() {
                assert!(property.get("description").is_some(), "{path}.{key}");
            }
        }
        check(schema(), "");
        for (name, definition) in schema()["$defs"].as_object().unwrap() {
            check(definition, name);
        }
        assert!(!schema().to_string().contains("null"));
    }

    #[test]
    fn schema_has_title_and_defaults() {
        assert_eq!(
            schema()["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
        assert_eq!(schema()["title"], "leastconn-lb configuration");
        assert_eq!(
            schema()["$defs"]["listener"]["required"],
            serde_json::json!(["name", "bind"])
        );
        assert_eq!(
            schema()["$defs"]["listener"]["properties"]["idle_timeout"]["default"],
            "1h"
        );
    }
}
