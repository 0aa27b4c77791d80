//! Validates a parsed file against the JSON schema: keys, types, fixed words and ranges.
//! Invalid parts are reported and removed.
//!
//! Supports the part of JSON Schema that the schema uses: `type`, `properties`, `required`,
//! `items`, `anyOf` of different types, `oneOf`, `enum` and `const` of strings, `minimum`,
//! `maximum` and `$ref`. Any key of a table that is not in `properties` is invalid.

use std::{collections::HashSet, ops::Range};

use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    Problems,
    schema::{Lookup, SCHEMA, join, list, properties, table_name},
    suggest::{either, nearest},
};

/// The position that [`check`] returns for the top level of the file. It differs from the position
/// of every table.
pub(crate) const TOP: usize = usize::MAX;

/// Checks the whole document. Removes the values at the positions in `failed`, which have
/// already been reported. Returns the positions of tables and lists from which invalid parts
/// were removed.
pub(crate) fn check(
    document: &mut DeTable<'_>,
    failed: &HashSet<usize>,
    problems: &mut Problems,
) -> HashSet<usize> {
    let mut shape = Shape {
        schema: &SCHEMA,
        failed,
        problems,
        pruned: HashSet::new(),
    };
    shape.table(SCHEMA.root(), document, &(TOP..TOP), "");
    shape.pruned
}

struct Shape<'a> {
    schema: &'static Lookup,
    failed: &'a HashSet<usize>,
    problems: &'a mut Problems,
    /// Start positions of tables and lists from which something was removed.
    pruned: HashSet<usize>,
}

impl Shape<'_> {
    fn table(
        &mut self,
        schema: &'static Value,
        table: &mut DeTable<'_>,
        span: &Range<usize>,
        path: &str,
    ) {
        let Some(known) = properties(schema) else {
            return;
        };
        for key in list(schema, "required").iter().filter_map(Value::as_str) {
            if !table.contains_key(key) {
                self.missing(key, span, table, known, path);
            }
        }
        let mut wrong = Vec::new();
        for (key, value) in table.iter_mut() {
            let name = key.get_ref().as_ref();
            let key_path = join(path, name);
            let keep = match known.get(name) {
                None => {
                    self.unknown(name, key.span(), known, path);
                    false
                }
                Some(property) => self.value(property, value, &key_path, name),
            };
            if !keep {
                wrong.push(name.to_owned());
            }
        }
        if !wrong.is_empty() {
            self.pruned.insert(span.start);
        }
        for key in wrong {
            table.remove(&*key);
        }
    }

    /// Checks a value. Returns whether it is valid.
    fn value(
        &mut self,
        schema: &'static Value,
        value: &mut Spanned<DeValue<'_>>,
        path: &str,
        key: &str,
    ) -> bool {
        let span = value.span();
        if self.failed.contains(&span.start) && value.get_ref().is_str() {
            return false;
        }
        let schema = self.schema.deref(schema);
        let alternatives = list(schema, "anyOf");
        if !alternatives.is_empty() {
            let fitting = alternatives
                .iter()
                .map(|alternative| self.schema.deref(alternative))
                .find(|alternative| has_type(alternative, value.get_ref()))
                .filter(|_| !self.is_quoted_number(schema, value.get_ref()));
            return match fitting {
                Some(alternative) => self.value(alternative, value, path, key),
                None => {
                    self.wrong_type(schema, value, key);
                    false
                }
            };
        }
        if !has_type(schema, value.get_ref()) {
            self.wrong_type(schema, value, key);
            return false;
        }
        match value.get_mut() {
            DeValue::String(text) => self.word(schema, text, span, key),
            DeValue::Integer(integer) => {
                let text = integer.as_str();
                match i64::from_str_radix(text, integer.radix()) {
                    Ok(number) => {
                        #[expect(clippy::cast_precision_loss, reason = "bounds are below 2^53")]
                        let value = number as f64;
                        self.range(schema, value, span, key)
                    }
                    Err(_) => {
                        self.problems
                            .error(format!("`{key}`: the number is too large"))
                            .at(span);
                        false
                    }
                }
            }
            DeValue::Array(items) => {
                self.items(schema, items, &span, path, key);
                true
            }
            DeValue::Table(table) => {
                self.table(schema, table, &span, path);
                true
            }
            // A float that cannot be parsed is out of every range.
            DeValue::Float(float) => self.range(
                schema,
                float.as_str().parse().unwrap_or(f64::NAN),
                span,
                key,
            ),
            DeValue::Boolean(_) | DeValue::Datetime(_) => true,
        }
    }

    fn items(
        &mut self,
        schema: &'static Value,
        items: &mut DeArray<'_>,
        span: &Range<usize>,
        path: &str,
        key: &str,
    ) {
        let Some(schema) = schema.get("items") else {
            return;
        };
        let keep: Vec<bool> = items
            .iter_mut()
            .map(|item| self.value(schema, item, path, key))
            .collect();
        if keep.contains(&false) {
            let mut kept = DeArray::new();
            for (item, _) in items.iter().zip(keep).filter(|(_, keep)| *keep) {
                kept.push(item.clone());
            }
            *items = kept;
            self.pruned.insert(span.start);
        }
    }

    /// Checks a string that the schema may restrict to fixed words.
    fn word(&mut self, schema: &'static Value, text: &str, span: Range<usize>, key: &str) -> bool {
        let words = words(schema);
        if words.is_empty() || words.contains(&text) {
            return true;
        }
        let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
        let problem = self
            .problems
            .error(format!("`{key}` cannot be {text:?}"))
            .at(span)
            .note(format!("it must be {}", either(&quoted)));
        if let Some(word) = nearest(text, words) {
            problem.help(format!("did you mean {word:?}?"));
        }
        false
    }

    fn range(&mut self, schema: &Value, number: f64, span: Range<usize>, key: &str) -> bool {
        let bound = |name| schema.get(name).and_then(Value::as_f64);
        let (least, most) = (bound("minimum"), bound("maximum"));
        if least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most) {
            return true;
        }
        let allowed = match (least, most) {
            (Some(least), Some(most)) if most < f64::from(u32::MAX) => {
                format!("from {least} to {most}")
            }
            (Some(least), _) if number < least => format!("at least {least}"),
            (_, Some(most)) => format!("at most {most}"),
            (_, None) => "a number".to_owned(),
        };
        let problem = self
            .problems
            .error(format!("`{key}` must be {allowed}, not {number}"))
            .at(span);
        if number == 0.0
            && let Some(help) = schema.get("x-leastconn-if-zero").and_then(Value::as_str)
        {
            problem.help(help);
        }
        false
    }

    /// Whether the value is a string such as `"8"` where a number is expected.
    fn is_quoted_number(&self, schema: &'static Value, value: &DeValue<'_>) -> bool {
        let takes_numbers = match list(schema, "anyOf") {
            [] => is_number(schema),
            all => all.iter().any(|one| is_number(self.schema.deref(one))),
        };
        takes_numbers && matches!(value, DeValue::String(text) if text.parse::<f64>().is_ok())
    }

    fn wrong_type(&mut self, schema: &'static Value, value: &Spanned<DeValue<'_>>, key: &str) {
        let expected = match list(schema, "anyOf") {
            [] => kind(schema),
            alternatives => {
                let kinds: Vec<_> = alternatives
                    .iter()
                    .map(|schema| kind(self.schema.deref(schema)))
                    .collect();
                either(&kinds)
            }
        };
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let quoted = self.is_quoted_number(schema, value.get_ref());
        let problem = self
            .problems
            .error(format!("`{key}`: expected {expected}, found {found}"))
            .at(value.span());
        match value.get_ref() {
            DeValue::Integer(number) if schema["title"] == "duration" => {
                problem.help(format!("write \"{}s\" for seconds", number.as_str()));
            }
            DeValue::Table(_) if schema["type"] == "array" => {
                problem.help(format!("write `[[{key}]]` for each table"));
            }
            DeValue::String(text) if quoted => {
                problem.help(format!("write {text}, without quotes"));
            }
            DeValue::String(text) if key == "match" => {
                problem.help(format!("write `match = {{ cn = {text:?} }}`"));
            }
            DeValue::String(text) if schema["type"] == "array" => {
                problem.help(format!("write `{key} = [{text:?}]`"));
            }
            DeValue::Integer(port) if key == "bind" => {
                problem.help(format!(
                    "write \"0.0.0.0:{port}\" for all IPv4 addresses, \"127.0.0.1:{port}\" for this machine only",
                    port = port.as_str()
                ));
            }
            DeValue::Integer(number) => {
                // For example `rate_limit = 20`, where a table with one required key is
                // expected.
                if let [only] = list(schema, "required")
                    && let Some(only) = only.as_str()
                {
                    problem.help(format!(
                        "write `{key} = {{ {only} = {} }}`",
                        number.as_str()
                    ));
                }
            }
            _ => {}
        }
    }

    fn unknown(
        &mut self,
        key: &str,
        span: Range<usize>,
        known: &'static Map<String, Value>,
        path: &str,
    ) {
        let problem = self
            .problems
            .error(format!("unknown key `{key}` in {}", table_name(path)))
            .at(span);
        if let Some(meant) = nearest(key, known.keys().map(String::as_str)) {
            problem.help(format!("did you mean `{meant}`?"));
            return;
        }
        let parent = path.rsplit_once('.').map(|(parent, _)| parent);
        if let Some(parent) = self
            .schema
            .tables_with(key)
            .find(|one| Some(*one) == parent)
        {
            // In TOML, all keys after a table's header belong to this table.
            problem.help(format!(
                "`{key}` belongs in {}: write it above {}",
                table_name(parent),
                table_name(path)
            ));
            return;
        }
        let elsewhere: Vec<_> = self.schema.tables_with(key).map(table_name).collect();
        let longer: Vec<_> = known
            .keys()
            .filter(|known| known.split('_').any(|part| part == key))
            .map(|known| format!("`{known}`"))
            .collect();
        if !longer.is_empty() {
            problem.help(format!("did you mean {}?", either(&longer)));
        } else if elsewhere.is_empty() {
            let all: Vec<_> = known.keys().map(|key| format!("`{key}`")).collect();
            problem.note(format!("the keys are {}", all.join(", ")));
        } else {
            problem.help(format!("`{key}` belongs in {}", either(&elsewhere)));
        }
    }

    fn missing(
        &mut self,
        key: &str,
        span: &Range<usize>,
        table: &DeTable<'_>,
        known: &'static Map<String, Value>,
        path: &str,
    ) {
        // For `nam = "web"`, report only the unknown key, not that `name` is missing.
        let mistyped = table.keys().any(|found| {
            let found = found.get_ref().as_ref();
            !known.contains_key(found)
                && nearest(found, known.keys().map(String::as_str)) == Some(key)
        });
        if !mistyped {
            self.problems
                .error(format!("{} needs `{key}`", table_name(path)))
                .at(span.clone());
        }
    }
}

/// The fixed words of a string. Empty: any text is valid.
fn words(schema: &Value) -> Vec<&str> {
    let own = schema.get("const").into_iter().chain(list(schema, "enum"));
    let of_alternatives = list(schema, "oneOf")
        .iter()
        .flat_map(|schema| schema.get("const").into_iter().chain(list(schema, "enum")));
    own.chain(of_alternatives)
        .filter_map(Value::as_str)
        .collect()
}

fn is_number(schema: &Value) -> bool {
    schema["type"] == "integer" || schema["type"] == "number"
}

fn has_type(schema: &Value, value: &DeValue<'_>) -> bool {
    let is = |name: &str| match value {
        DeValue::String(_) => name == "string",
        DeValue::Integer(_) => name == "integer" || name == "number",
        DeValue::Float(_) => name == "number",
        DeValue::Boolean(_) => name == "boolean",
        // The JSON schema describes dates as strings with this format.
        DeValue::Datetime(_) => name == "string" && schema["format"] == "date-time",
        DeValue::Array(_) => name == "array",
        DeValue::Table(_) => name == "object",
    };
    match schema.get("type").and_then(Value::as_str) {
        Some(name) => is(name),
        None => value.is_str() && !words(schema).is_empty(),
    }
}

/// Describes what a schema expects, for example `a duration like "10s"`.
fn kind(schema: &Value) -> String {
    let type_name = schema.get("type").and_then(Value::as_str);
    let words: Vec<_> = words(schema)
        .iter()
        .map(|word| format!("{word:?}"))
        .collect();
    if !words.is_empty() {
        return either(&words);
    }
    let title = schema.get("title").and_then(Value::as_str);
    match (type_name, title) {
        (Some("string"), Some(title)) => {
            let article = if title.starts_with(['a', 'e', 'i', 'o', 'u']) {
                "an"
            } else {
                "a"
            };
            match list(schema, "examples") {
                [example, ..] => format!("{article} {title} like {example}"),
                [] => format!("{article} {title}"),
            }
        }
        (Some("string"), None) => "a string".to_owned(),
        (Some("integer"), _) => "an integer".to_owned(),
        (Some("number"), _) => "a number".to_owned(),
        (Some("boolean"), _) => "true or false".to_owned(),
        (Some("array"), _) => match schema.get("items").map(|items| SCHEMA.deref(items)) {
            Some(items) if items["type"] == "string" => "a list of strings".to_owned(),
            Some(items) if items["type"] == "integer" => "a list of integers".to_owned(),
            Some(items) if items["type"] == "object" => "a list of tables".to_owned(),
            _ => "a list".to_owned(),
        },
        _ => "a table".to_owned(),
    }
}
