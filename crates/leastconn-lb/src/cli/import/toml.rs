//! Writes tables, values and comments in TOML.

use std::{collections::HashMap, fmt::Write};

use super::model::{Kind, Note, Place, Table, Value};

/// Marks the name of an environment variable in a text: the writer turns
/// `\u{1}NAME\u{2}` into `${NAME}`, and doubles all other dollar signs.
pub(crate) const VARIABLE_START: char = '\u{1}';
pub(crate) const VARIABLE_END: char = '\u{2}';

/// Maximum line length for an inline table or a list.
const WIDTH: usize = 100;

/// Maximum number of characters of a source line in a comment.
const LONGEST_LINE: usize = 200;

/// Length from which a reason is not repeated.
const LONG_REASON: usize = 90;

/// A table that is too wide for one line, with its notes.
type WideTable = (String, Vec<(&'static str, Value)>, Vec<Note>);

/// Collects the output. Each note is written only once.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    text: String,
    written: Vec<Note>,
    /// Long reasons that were written, with the first line of the source that they explain.
    explained: HashMap<String, Place>,
    /// Tables of the current section that are written after its other keys.
    wide: Vec<WideTable>,
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

    /// Writes notes with the lines of the source, unless they were written before. Notes for the
    /// same line share its text, and remarks with the same reason share the reason.
    pub(crate) fn notes(&mut self, indent: &str, notes: &[Note]) {
        let mut new: Vec<&Note> = Vec::new();
        for note in notes {
            if !self.written.contains(note) && !new.contains(&note) {
                new.push(note);
            }
        }
        self.written.extend(new.iter().copied().cloned());
        let mut rest = new.as_slice();
        while let Some(first) = rest.first() {
            let is_shared =
                |note: &&&Note| note.kind == Kind::Remark && note.reason == first.reason;
            let shared = match first.kind {
                Kind::Remark => rest.iter().take_while(is_shared).count(),
                Kind::LeftOut | Kind::Differs => 0,
            };
            let count = if shared > 1 {
                for note in &rest[..shared] {
                    self.source(indent, note);
                }
                self.reason(indent, first);
                shared
            } else {
                let is_same = |note: &&&Note| note.place == first.place;
                let count = rest.iter().take_while(is_same).count();
                self.source(indent, first);
                for note in &rest[..count] {
                    self.reason(indent, note);
                }
                count
            };
            rest = &rest[count..];
        }
    }

    fn source(&mut self, indent: &str, note: &Note) {
        let place = &note.place;
        let source = shortened(&place.text);
        self.line(&format!(
            "{indent}# {}:{}: {source}",
            clean(&place.file),
            place.line
        ));
    }

    fn reason(&mut self, indent: &str, note: &Note) {
        let prefix = match note.kind {
            Kind::LeftOut => "not carried over: ",
            Kind::Differs => "differs: ",
            Kind::Remark => "",
        };
        let reason = shorter(&mut self.explained, note);
        let text = format!("{prefix}{reason}");
        for line in wrapped(&text, WIDTH - indent.len() - 4) {
            self.line(&format!("{indent}#   {line}"));
        }
    }

    /// Writes the keys of a table, then its notes.
    pub(crate) fn table(&mut self, table: &Table) {
        for (key, value) in &table.keys {
            self.key(key, value);
        }
        self.notes("", &table.notes);
    }

    /// Writes a key. A table that is too wide for one line is kept for [`Self::wide_tables`].
    pub(crate) fn key(&mut self, key: &str, value: &Value) {
        self.noted_key(key, value, &[]);
    }

    /// Writes a key and its notes.
    pub(crate) fn noted_key(&mut self, key: &str, value: &Value, notes: &[Note]) {
        let written = inline(value);
        let is_wide = key.len() + written.len() + 3 > WIDTH;
        match value {
            Value::Table(keys) if is_wide => {
                self.wide
                    .push((key.to_owned(), keys.clone(), notes.to_vec()));
                return;
            }
            Value::List(items) if is_wide => {
                self.line(&format!("{key} = ["));
                for item in items {
                    self.line(&format!("  {},", inline(item)));
                }
                self.line("]");
            }
            _ => self.line(&format!("{key} = {written}")),
        }
        self.notes("", notes);
    }

    /// Writes the wide tables of the section `parent`.
    pub(crate) fn wide_tables(&mut self, parent: &str) {
        for (key, keys, notes) in std::mem::take(&mut self.wide) {
            self.line(&format!("[{parent}.{key}]"));
            for (key, value) in &keys {
                self.key(key, value);
            }
            self.notes("", &notes);
        }
    }
}

/// Returns the reason of a note, or a reference to the line that `explained` has for the same
/// reason. Short reasons are repeated.
pub(crate) fn shorter(explained: &mut HashMap<String, Place>, note: &Note) -> String {
    if note.reason.len() < LONG_REASON {
        return note.reason.clone();
    }
    match explained.get(&note.reason) {
        Some(first) if *first == note.place => note.reason.clone(),
        Some(first) => format!("as explained at {}:{}", first.file, first.line),
        None => {
            explained.insert(note.reason.clone(), note.place.clone());
            note.reason.clone()
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

/// Returns a text with its variables as `${NAME}`.
pub(crate) fn readable(text: &str) -> String {
    text.replace(VARIABLE_START, "${")
        .replace(VARIABLE_END, "}")
}

/// Replaces control characters, which TOML does not allow in comments.
pub(crate) fn clean(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().to_owned()
}

/// Returns the first part of a source line.
pub(crate) fn shortened(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{} …", text[..end].trim_end()),
        None => text,
    }
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
    use super::{
        super::model::{Place, Value},
        VARIABLE_END, VARIABLE_START, Writer, inline,
    };

    #[test]
    fn strings_are_escaped() {
        let text = format!("{VARIABLE_START}PORT{VARIABLE_END} a$b \"\\\n\u{7}");
        assert_eq!(inline(&Value::Text(text)), r#""${PORT} a$$b \"\\\n\u0007""#);
    }

    #[test]
    fn notes_share_lines_and_reasons() {
        let place = |line: usize, text: &str| Place {
            file: "f".into(),
            line,
            text: text.to_owned(),
        };
        let notes = [
            place(1, "daemon").remark("not needed"),
            place(2, "user x").remark("not needed"),
            place(3, "bind :1 a b").left_out("a is not known"),
            place(3, "bind :1 a b").left_out("b is not known"),
            place(2, "user x").remark("not needed"),
        ];
        let mut writer = Writer::default();
        writer.notes("", &notes);
        let (text, written) = writer.finish();
        assert_eq!(
            text,
            "# f:1: daemon\n# f:2: user x\n#   not needed\n# f:3: bind :1 a b\n\
             #   not carried over: a is not known\n#   not carried over: b is not known\n"
        );
        assert_eq!(written.len(), 4);
    }

    #[test]
    fn wide_tables_follow_the_other_keys() {
        let mut writer = Writer::default();
        let long = "x".repeat(60);
        let keys = vec![("cert", Value::text(&long)), ("key", Value::text(&long))];
        writer.key("tls", &Value::Table(keys));
        writer.key("name", &Value::text("a"));
        writer.wide_tables("listener");
        let expected =
            format!("name = \"a\"\n[listener.tls]\ncert = \"{long}\"\nkey = \"{long}\"\n");
        assert_eq!(writer.finish().0, expected);
    }

    #[test]
    fn rates_are_written_without_trailing_zeros() {
        assert_eq!(inline(&Value::Float(2.0)), "2");
        assert_eq!(inline(&Value::Float(0.5)), "0.5");
        assert_eq!(inline(&Value::Float(1.0 / 3.0)), "0.333333");
    }
}
