//! Writes tables, values and comments in TOML.

use std::fmt::Write;

use super::model::{Kind, Note, Table, Value};

/// Marks the name of an environment variable in a text: the writer turns
/// `\u{1}NAME\u{2}` into `${NAME}`, and doubles all other dollar signs.
pub(crate) const VARIABLE_START: char = '\u{1}';
pub(crate) const VARIABLE_END: char = '\u{2}';

/// Maximum line length for an inline table or a list.
const WIDTH: usize = 100;

/// Collects the output. Each note is written only once.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    text: String,
    written: Vec<Note>,
}

impl Writer {
    pub(crate) fn finish(self) -> (String, Vec<Note>) {
        (self.text, self.written)
    }

    pub(crate) fn blank(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    pub(crate) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Writes a comment, wrapped, with `indent` before the `#`.
    pub(crate) fn comment(&mut self, indent: &str, text: &str) {
        for line in wrapped(text, WIDTH - indent.len() - 2) {
            self.line(&format!("{indent}# {line}"));
        }
    }

    /// Writes a note with the line of the source, unless it was written before.
    pub(crate) fn note(&mut self, indent: &str, note: &Note) {
        if self.written.contains(note) {
            return;
        }
        self.written.push(note.clone());
        let place = &note.place;
        let source = clean(&place.text);
        self.line(&format!(
            "{indent}# {}:{}: {source}",
            clean(&place.file),
            place.line
        ));
        let prefix = match note.kind {
            Kind::LeftOut => "not carried over: ",
            Kind::Remark => "",
        };
        for line in wrapped(
            &format!("{prefix}{}", note.reason),
            WIDTH - indent.len() - 4,
        ) {
            self.line(&format!("{indent}#   {line}"));
        }
    }

    pub(crate) fn notes(&mut self, indent: &str, notes: &[Note]) {
        for note in notes {
            self.note(indent, note);
        }
    }

    /// Writes the keys of a table, then its notes.
    pub(crate) fn table(&mut self, table: &Table) {
        for (key, value) in &table.keys {
            self.key(key, value);
        }
        self.notes("", &table.notes);
    }

    pub(crate) fn key(&mut self, key: &str, value: &Value) {
        let written = inline(value);
        if key.len() + written.len() + 3 <= WIDTH {
            self.line(&format!("{key} = {written}"));
            return;
        }
        match value {
            Value::List(items) => {
                self.line(&format!("{key} = ["));
                for item in items {
                    self.line(&format!("  {},", inline(item)));
                }
                self.line("]");
            }
            _ => self.line(&format!("{key} = {written}")),
        }
    }
}

/// Formats a value on one line.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Integer(number) => number.to_string(),
        // Omit trailing zeros: the configuration also accepts integers for these keys.
        Value::Float(number) => {
            let text = format!("{number:.6}");
            let text = text.trim_end_matches('0');
            text.strip_suffix('.').unwrap_or(text).to_owned()
        }
        Value::Boolean(value) => value.to_string(),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(keys) => {
            let keys: Vec<_> = keys
                .iter()
                .map(|(key, value)| format!("{key} = {}", inline(value)))
                .collect();
            format!("{{ {} }}", keys.join(", "))
        }
    }
}

/// Formats a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            VARIABLE_START => quoted.push_str("${"),
            VARIABLE_END => quoted.push('}'),
            '$' => quoted.push_str("$$"),
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String does not fail.
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Replaces control characters, which TOML does not allow in comments.
fn clean(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in clean(text).split(' ').filter(|word| !word.is_empty()) {
        let Some(line) = lines.last_mut() else {
            break;
        };
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{super::model::Value, VARIABLE_END, VARIABLE_START, inline};

    #[test]
    fn strings_are_escaped() {
        let text = format!("{VARIABLE_START}PORT{VARIABLE_END} a$b \"\\\n\u{7}");
        assert_eq!(inline(&Value::Text(text)), r#""${PORT} a$$b \"\\\n\u0007""#);
    }

    #[test]
    fn rates_are_written_without_trailing_zeros() {
        assert_eq!(inline(&Value::Float(2.0)), "2");
        assert_eq!(inline(&Value::Float(0.5)), "0.5");
        assert_eq!(inline(&Value::Float(1.0 / 3.0)), "0.333333");
    }
}
