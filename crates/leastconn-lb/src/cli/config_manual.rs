//! `man --config`: leastconn.toml(5), generated from the JSON Schema of the configuration.

use std::fmt::Write;

use serde_json::Value;

/// Tables in the order in which they usually appear in a file. All others follow alphabetically.
const ORDER: [&str; 7] = [
    "process", "log", "admin", "listener", "upstream", "client", "defaults",
];

const AFTER: &str = r#".SH EXAMPLES
.nf
[admin]
bind = "127.0.0.1:9901"
socket = "leastconn.sock"

[[listener]]
name = "main"
bind = "0.0.0.0:9443"
upstream = "web"
tls = { cert = "server.crt", key = "server.key", client_ca = "ca.crt", crl = "ca.crl" }

[[upstream]]
name = "web"
servers = ["10.0.0.11:80", "10.0.0.12:80"]

[[client]]
name = "client1"
match = { cn = "client1.example.com" }
allow = ["web"]
rate_limit = { rate = 20, burst = 20 }
.fi
.PP
\fBleastconn\-lb init\fR writes a first configuration with certificates.
.SH FILES
.TP
\fIleastconn.toml\fR, \fI/etc/leastconn/leastconn.toml\fR
the first file that exists is used unless \fB\-\-config\fR names one
.SH "SEE ALSO"
\fBleastconn\-lb\fR(1), \fBleastconn\-lb\-check\fR(1), \fBleastconn\-lb\-explain\fR(1)
"#;

/// The page in roff format.
pub(super) fn manual() -> String {
    let root = leastconn_config::schema();
    let mut page = Page {
        root,
        text: String::new(),
    };
    page.text.push_str(&format!(
        ".TH leastconn.toml 5 \"\" \"leastconn\\-lb {}\" \"File formats\"\n\
         .SH NAME\nleastconn.toml \\- configuration of leastconn\\-lb\n\
         .SH DESCRIPTION\n",
        escaped(env!("CARGO_PKG_VERSION"))
    ));
    page.paragraphs(description(root));
    let tables = properties(root);
    let first = ORDER
        .iter()
        .filter_map(|name| tables.clone().find(|(table, _)| table == name));
    let others = tables.clone();
    let others = others.filter(|(name, _)| !ORDER.contains(&name.as_str()));
    for (name, schema) in first.chain(others) {
        page.table(name, schema, true);
    }
    page.text.push_str(AFTER);
    page.text
}

struct Page {
    root: &'static Value,
    text: String,
}

impl Page {
    fn deref(&self, schema: &'static Value) -> &'static Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        reference
            .and_then(|reference| self.root.pointer(reference.strip_prefix('#')?))
            .unwrap_or(schema)
    }

    /// Returns the schema of the table that `schema` describes, and whether it is a list of
    /// tables.
    fn table_of(&self, schema: &'static Value) -> Option<(&'static Value, bool)> {
        let schema = self.deref(schema);
        if schema.get("properties").is_some() {
            return Some((schema, false));
        }
        if let Some(items) = schema.get("items") {
            return self.table_of(items).map(|(table, _)| (table, true));
        }
        let variants = schema.get("anyOf").and_then(Value::as_array)?;
        variants.iter().find_map(|variant| self.table_of(variant))
    }

    /// Writes the section of the table at `path`, and the sections of its subtables.
    fn table(&mut self, path: &str, schema: &'static Value, is_section: bool) {
        let Some((table, is_list)) = self.table_of(schema) else {
            return;
        };
        let heading = if is_list {
            format!("[[{path}]]")
        } else {
            format!("[{path}]")
        };
        let request = if is_section { ".SH" } else { ".SS" };
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{request} \"{}\"", escaped(&heading));
        let own = description(schema);
        self.paragraphs(if own.is_empty() {
            description(table)
        } else {
            own
        });
        let required = table.get("required").and_then(Value::as_array);
        let is_required =
            |key: &str| required.is_some_and(|keys| keys.iter().any(|one| one == key));
        for (key, value) in properties(table) {
            self.key(key, value, is_required(key));
        }
        for (key, value) in properties(table) {
            self.table(&format!("{path}.{key}"), value, false);
        }
    }

    fn key(&mut self, key: &str, schema: &'static Value, is_required: bool) {
        let default = schema
            .get("default")
            .map(|value| format!("default {value}"));
        let presence = if is_required {
            Some("required".to_owned())
        } else {
            default
        };
        let kind = std::iter::once(self.kind(schema)).chain(presence);
        let kind: Vec<_> = kind.collect();
        let _ = writeln!(
            self.text,
            ".TP\n\\fB{}\\fR ({})",
            escaped(key),
            escaped(&kind.join(", "))
        );
        let _ = writeln!(self.text, "{}", marked(description(schema)));
        for (value, meaning) in self.values(schema) {
            let _ = writeln!(
                self.text,
                ".RS\n.TP\n{}\n{}\n.RE",
                escaped(&value),
                marked(&meaning)
            );
        }
    }

    /// Returns the values of an enumeration that have descriptions.
    fn values(&self, schema: &'static Value) -> Vec<(String, String)> {
        let variants = self.deref(schema).get("oneOf").and_then(Value::as_array);
        let variants = variants.into_iter().flatten();
        variants
            .filter_map(|variant| {
                let value = variant.get("const")?.to_string();
                Some((value, description(variant).to_owned()))
            })
            .collect()
    }

    /// Describes the type of a value for readers.
    fn kind(&self, schema: &'static Value) -> String {
        let schema = self.deref(schema);
        if let Some(value) = schema.get("const") {
            return value.to_string();
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(variants) = schema.get(key).and_then(Value::as_array) {
                // A variant with a `pattern` exists only to allow environment variables.
                let variants = variants.iter().filter(|one| one.get("pattern").is_none());
                let kinds: Vec<_> = variants.map(|one| self.kind(one)).collect();
                return kinds.join(" or ");
            }
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("array") => match schema.get("items") {
                Some(items) => format!("list of {}", plural(&self.kind(items))),
                None => "list".to_owned(),
            },
            Some("object") => "table".to_owned(),
            Some("integer") => match (schema.get("minimum"), schema.get("maximum")) {
                (Some(min), Some(max)) => format!("integer from {min} to {max}"),
                _ => "integer".to_owned(),
            },
            Some("string") => match schema.get("title").and_then(Value::as_str) {
                Some(title) => title.replace('_', " "),
                None => "string".to_owned(),
            },
            Some(other) => other.to_owned(),
            None => "value".to_owned(),
        }
    }

    fn paragraphs(&mut self, text: &str) {
        for paragraph in text.split("\n\n") {
            let _ = writeln!(self.text, ".PP\n{}", marked(paragraph));
        }
    }
}

fn plural(kind: &str) -> String {
    match kind {
        "string" | "table" | "integer" | "duration" => format!("{kind}s"),
        other => other.to_owned(),
    }
}

fn description(schema: &Value) -> &str {
    let text = schema.get("description").and_then(Value::as_str);
    text.unwrap_or_default()
}

fn properties(
    schema: &'static Value,
) -> impl Iterator<Item = (&'static String, &'static Value)> + Clone {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten()
}

/// Returns `text` escaped and on one line. Code in backticks is set in bold.
fn marked(text: &str) -> String {
    let mut out = String::new();
    for (number, part) in text.split('`').enumerate() {
        let part = escaped(part);
        if number % 2 == 1 {
            let _ = write!(out, "\\fB{part}\\fR");
        } else {
            out.push_str(&part);
        }
    }
    // A period or an apostrophe at the beginning of a line would be a request.
    if out.starts_with(['.', '\'']) {
        out.insert_str(0, "\\&");
    }
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            // A quotation mark would end the argument of a request.
            '"' => out.push_str("\\(dq"),
            '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_and_key_has_an_entry() {
        fn keys(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Object(object) => {
                    if let Some(properties) = object.get("properties").and_then(Value::as_object) {
                        found.extend(properties.keys().cloned());
                    }
                    object.values().for_each(|value| keys(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| keys(value, found)),
                _ => {}
            }
        }
        let page = manual();
        let mut found = Vec::new();
        keys(leastconn_config::schema(), &mut found);
        assert!(found.len() > 100);
        let is_top =
            |key: &String| properties(leastconn_config::schema()).any(|(top, _)| top == key);
        for key in found.iter().filter(|key| !is_top(key)) {
            assert!(page.contains(&format!("\n\\fB{key}\\fR (")), "{key}");
        }
        for table in [
            "[[listener]]",
            "[listener.tls]",
            "[[upstream.servers]]",
            "[client.match]",
        ] {
            assert!(page.contains(&format!(" \"{table}\"\n")), "{table}");
        }
        assert!(page.contains("\\fBidle_timeout\\fR (duration, default \\(dq1h\\(dq)"));
    }

    #[test]
    fn requests_in_descriptions_are_escaped() {
        assert_eq!(marked(".SH `x-y`"), "\\&.SH \\fBx\\-y\\fR");
        assert_eq!(marked("a\\b \"c\"\nd"), "a\\eb \\(dqc\\(dq d");
    }
}
