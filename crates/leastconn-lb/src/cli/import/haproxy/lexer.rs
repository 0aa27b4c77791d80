//! Splits the lines of an HAProxy configuration into words.

use std::rc::Rc;

use super::super::{
    model::Place,
    toml::{VARIABLE_END, VARIABLE_START},
};

/// A line that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) place: Place,
    pub(crate) words: Vec<String>,
}

impl Line {
    pub(crate) fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }
}

/// Returns all lines that contain words.
///
/// # Errors
/// If a quote is not closed.
pub(crate) fn lines(file: &Rc<str>, text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let words =
            words(line).ok_or_else(|| format!("{file}:{}: a quote is not closed", number + 1))?;
        if !words.is_empty() {
            lines.push(Line {
                place: Place {
                    file: file.clone(),
                    line: number + 1,
                    text: line.trim().to_owned(),
                },
                words,
            });
        }
    }
    Ok(lines)
}

/// Splits a line into words at blanks. Text in single quotes is literal. Text in double quotes may
/// contain blanks and environment variables, which are marked for the TOML writer. Returns `None`
/// if a quote is not closed.
pub(crate) fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' => break,
            c if c.is_whitespace() => words.extend(word.take()),
            '\\' => {
                let word = word.get_or_insert_default();
                escape(word, &mut chars, |c| matches!(c, ' ' | '#'));
            }
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => escape(word, &mut chars, |c| matches!(c, ' ' | '#' | '$')),
                        '$' => word.push_str(&variable(&mut chars)),
                        c => word.push(c),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Reads an escaped character after a backslash. A backslash before any other character is kept:
/// regular expressions contain such backslashes.
fn escape(
    word: &mut String,
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    is_escaped: impl Fn(char) -> bool,
) {
    let next = chars.peek().copied();
    let escaped = match next {
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('x') => {
            let mut ahead = chars.clone().skip(1);
            let digits = [ahead.next(), ahead.next()].map(|c| c.and_then(|c| c.to_digit(16)));
            let value = match digits {
                [Some(high), Some(low)] => char::from_u32(high * 16 + low),
                _ => None,
            };
            // Other bytes are not text.
            let Some(c) = value.filter(char::is_ascii) else {
                word.push('\\');
                return;
            };
            chars.next();
            chars.next();
            c
        }
        Some(c @ ('\\' | '"' | '\'')) => c,
        Some(c) if is_escaped(c) => c,
        _ => {
            word.push('\\');
            return;
        }
    };
    chars.next();
    word.push(escaped);
}

/// Reads the name of an environment variable after the dollar sign: `NAME`, `{NAME}` or
/// `{NAME-default}`.
fn variable(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut name = String::new();
    if chars.next_if_eq(&'{').is_some() {
        for c in chars.by_ref() {
            if c == '}' {
                break;
            }
            name.push(c);
        }
        if let Some((variable, default)) = name.split_once('-') {
            name = format!("{variable}:-{default}");
        }
    } else {
        while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
    }
    if name.is_empty() {
        return "$".to_owned();
    }
    format!("{VARIABLE_START}{name}{VARIABLE_END}")
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_escapes_and_comments() {
        for (line, expected) in [
            ("bind :443  ssl # comment", &["bind", ":443", "ssl"][..]),
            (r"acl a path\ b c\#d", &["acl", "a", "path b", "c#d"]),
            (r#"a "b # c" 'd "e' f"#, &["a", "b # c", "d \"e", "f"]),
            (r#"a x"y z"w"#, &["a", "xy zw"]),
            (r#"send "PING\\r""#, &["send", r"PING\r"]),
            (r"send PING\r\n", &["send", "PING\r\n"]),
            (r#"send "PING\r\n\x41\"\$""#, &["send", "PING\r\nA\"$"]),
            (
                r"reg ^db\.x\$ \x4 \'\",
                &["reg", r"^db\.x\$", r"\x4", r"'\"],
            ),
            (r#"reg "^db\.x$""#, &["reg", r"^db\.x$"]),
            (r#"bind "$IP:443""#, &["bind", "\u{1}IP\u{2}:443"]),
            (r#"bind "${IP-::}:443""#, &["bind", "\u{1}IP:-::\u{2}:443"]),
            ("a $b", &["a", "$b"]),
            ("  # only a comment", &[]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert_eq!(words("a \"b"), None);
    }
}
