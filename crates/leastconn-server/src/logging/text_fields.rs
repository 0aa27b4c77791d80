//! Fields of the text log.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// Writes the message, then the fields as `name=value`.
///
/// A value with a space, `=`, a quotation mark, a backslash or a control character is quoted
/// and escaped. So each message is one line, and a value cannot be mistaken for another field.
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor {
            writer,
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            return write_escaped(&mut self.writer, value);
        }
        if self.writer.has_ansi_escapes() {
            // Italic name, dimmed `=`.
            write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
        } else {
            write!(self.writer, "{name}=")?;
        }
        if is_plain(value) {
            self.writer.write_str(value)
        } else {
            write!(self.writer, "{value:?}")
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.write(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn is_plain(value: &str) -> bool {
    let is_special = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=' | '\\');
    !value.is_empty() && !value.contains(is_special)
}

/// Writes `text` with control characters escaped.
fn write_escaped(writer: &mut impl Write, text: &str) -> fmt::Result {
    if !text.contains(char::is_control) {
        return writer.write_str(text);
    }
    text.chars().try_for_each(|c| match c {
        c if c.is_control() => write!(writer, "{}", c.escape_debug()),
        c => writer.write_char(c),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{fmt, layer::SubscriberExt};

    use super::TextFields;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns what `log` writes, without time and level.
    fn logged(ansi: bool, log: impl FnOnce()) -> String {
        let output = Output::default();
        let to = output.clone();
        let layer = fmt::layer()
            .fmt_fields(TextFields)
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(ansi)
            .with_writer(move || to.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(output.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn values_are_quoted_if_needed() {
        let refused = io::Error::from_raw_os_error(111);
        let line = logged(false, || {
            tracing::warn!(upstream = "web", server = %"web1", attempts = 2, reason = %refused, "server down");
        });
        assert_eq!(
            line.trim(),
            "server down upstream=web server=web1 attempts=2 \
             reason=\"Connection refused (os error 111)\""
        );
        for (value, expected) in [
            ("", r#"x="""#),
            ("a=b", r#"x="a=b""#),
            (r#"a"b"#, r#"x="a\"b""#),
            (r"a\b", r#"x="a\\b""#),
            ("a\nb\x1b[2J", r#"x="a\nb\u{1b}[2J""#),
            ("[::1]:443", "x=[::1]:443"),
            ("Zürich", "x=Zürich"),
        ] {
            let line = logged(false, || tracing::info!(x = value, "m"));
            assert_eq!(line.trim(), format!("m {expected}"));
            let line = logged(false, || tracing::info!(x = %value, "m"));
            assert_eq!(line.trim(), format!("m {expected}"));
        }
    }

    #[test]
    fn message_is_one_line() {
        let line = logged(false, || tracing::info!(n = 1, "{}", "a \"b\"\nc\x1b"));
        assert_eq!(line.trim(), r#"a "b"\nc\u{1b} n=1"#);
    }

    #[test]
    fn names_are_highlighted_on_terminals() {
        let line = logged(true, || tracing::info!(n = 1, "m"));
        assert_eq!(line.trim(), "m \x1b[3mn\x1b[0m\x1b[2m=\x1b[0m1");
    }
}
