//! Splits the lines of an HAProxy configuration into words.

use std::{collections::HashMap, rc::Rc};

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

/// Replaces the variables that `setenv` and `presetenv` lines of the file set. A `presetenv`
/// becomes the default of its variable.
pub(crate) fn set_variables(lines: &mut [Line]) {
    let mut values: HashMap<String, (String, bool)> = HashMap::new();
    for line in lines {
        for word in &mut line.words {
            for (name, (value, is_default)) in &values {
                let variable = format!("{VARIABLE_START}{name}{VARIABLE_END}");
                let replacement = if *is_default {
                    format!("{VARIABLE_START}{name}:-{value}{VARIABLE_END}")
                } else {
                    value.clone()
                };
                *word = word.replace(&variable, &replacement);
            }
        }
        match (line.word(0), line.word(1)) {
            (kind @ ("setenv" | "presetenv"), name) => {
                let is_default = kind == "presetenv";
                let value = (line.word(2).to_owned(), is_default);
                values.insert(name.to_owned(), value);
            }
            ("unsetenv", name) => {
                values.remove(name);
            }
            _ => {}
        }
    }
}

/// Splits a line into words at blanks. A backslash escapes one character. Text in single quotes is
/// literal. Text in double quotes may contain blanks and environment variables, which are marked
/// for the TOML writer. Returns `None` if a quote is not closed.
pub(crate) fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' => break,
            c if c.is_whitespace() => words.extend(word.take()),
            '\\' => {
                let escaped = chars.next().map_or('\\', |c| match c {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    c => c,
                });
                word.get_or_insert_default().push(escaped);
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
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
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
    use super::{lines, set_variables, words};

    #[test]
    fn quotes_escapes_and_comments() {
        for (line, expected) in [
            ("bind :443  ssl # comment", &["bind", ":443", "ssl"][..]),
            (r"acl a path\ b c\#d", &["acl", "a", "path b", "c#d"]),
            (r#"a "b # c" 'd "e' f"#, &["a", "b # c", "d \"e", "f"]),
            (r#"a x"y z"w"#, &["a", "xy zw"]),
            (r#"send "PING\\r""#, &["send", r"PING\r"]),
            (r"send PING\r\n", &["send", "PING\r\n"]),
            (r#"bind "$IP:443""#, &["bind", "\u{1}IP\u{2}:443"]),
            (r#"bind "${IP-::}:443""#, &["bind", "\u{1}IP:-::\u{2}:443"]),
            ("a $b", &["a", "$b"]),
            ("  # only a comment", &[]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert_eq!(words("a \"b"), None);
    }
    #[test]
    fn variables_of_the_file_are_replaced() {
        let text = "setenv PORT 443\npresetenv IP ::1\nbind \"$IP:${PORT}\" \"$OTHER\"\n\
            unsetenv PORT\nbind \":$PORT\"";
        let mut lines = lines(&"t".into(), text).unwrap();
        set_variables(&mut lines);
        assert_eq!(lines[2].words[1], "\u{1}IP:-::1\u{2}:443");
        assert_eq!(lines[2].words[2], "\u{1}OTHER\u{2}");
        assert_eq!(lines[4].words[1], ":\u{1}PORT\u{2}");
    }
}
