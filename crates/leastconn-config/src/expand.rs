//! Environment variables in strings: `${NAME}` and `${NAME:-default}`.
//!
//! Values of variables and defaults are not expanded again. As in a shell, the default is also used
//! if the variable is set to an empty value. `$$` becomes `$`. Any other `$` is an error, because
//! it looks like the start of a variable.

use std::{collections::HashSet, ops::Range};

use toml::{Spanned, de::DeValue};

use super::Problems;

/// A function that looks up an environment variable.
pub(crate) type Environment<'a> = &'a (dyn Fn(&str) -> Result<String, std::env::VarError> + Sync);

/// Expands all strings of `value` in place. Reports every string that cannot be expanded,
/// and returns the positions of these strings.
pub(crate) fn expand(
    value: &mut DeValue<'_>,
    span: &Range<usize>,
    environment: Environment<'_>,
    problems: &mut Problems,
) -> HashSet<usize> {
    let mut failed = HashSet::new();
    let mut rest = vec![(value, span.clone())];
    while let Some((value, span)) = rest.pop() {
        match value {
            DeValue::String(text) if text.contains('$') => match expand_text(text, environment) {
                Ok(expanded) => *text = expanded.into(),
                Err(error) => {
                    let (message, help) = error.message_and_help();
                    problems.error(message).at(span.clone()).help(help);
                    failed.insert(span.start);
                }
            },
            DeValue::Array(items) => {
                rest.extend(items.iter_mut().map(spanned));
            }
            DeValue::Table(table) => {
                rest.extend(table.iter_mut().map(|(_, value)| spanned(value)));
            }
            _ => {}
        }
    }
    failed
}

fn spanned<'a, 'i>(value: &'a mut Spanned<DeValue<'i>>) -> (&'a mut DeValue<'i>, Range<usize>) {
    let span = value.span();
    (value.get_mut(), span)
}

#[derive(Debug, PartialEq, Eq)]
enum ExpandError {
    Unset(String),
    NotUnicode(String),
    Unclosed,
    BadName(String),
    LoneDollar,
    /// A `$` at the end of a text that looks like a regular expression.
    RegularExpression,
    NestedDefault(String),
}

impl ExpandError {
    fn message_and_help(&self) -> (String, String) {
        match self {
            Self::Unset(name) => (
                format!("the environment variable `{name}` is not set"),
                format!("set it, or give a default: `${{{name}:-default}}`"),
            ),
            Self::NotUnicode(name) => (
                format!("the environment variable `{name}` is not Unicode text"),
                "set it to text".to_owned(),
            ),
            Self::Unclosed => (
                "`${` without a closing `}`".to_owned(),
                "write `${NAME}`, or `$$` for a `$`".to_owned(),
            ),
            Self::BadName(name) => (
                format!("`{name}` is not the name of an environment variable"),
                "a name consists of letters, digits and `_`, and does not start with a digit"
                    .to_owned(),
            ),
            Self::NestedDefault(name) => (
                format!(
                    "the default of `${{{name}:-…}}` contains a `$`: variables are not replaced there"
                ),
                "write the default as plain text, or set the variable".to_owned(),
            ),
            Self::RegularExpression => (
                "the text looks like a regular expression, which is not supported".to_owned(),
                "`*` in a name matches one whole label, as in \"*.example.com\"; write `$$` for a `$`"
                    .to_owned(),
            ),
            Self::LoneDollar => (
                "`$` is neither part of `${NAME}` nor of `$$`".to_owned(),
                "write `${NAME}` for an environment variable, `$$` for a `$`".to_owned(),
            ),
        }
    }
}

fn expand_text(text: &str, environment: Environment<'_>) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (reference, after) = after.split_once('}').ok_or(ExpandError::Unclosed)?;
            out.push_str(&look_up(reference, environment)?);
            rest = after;
        } else if after.is_empty() && text.contains(['^', '\\', '[', '(', '|', '+', '*', '?']) {
            return Err(ExpandError::RegularExpression);
        } else {
            return Err(ExpandError::LoneDollar);
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn look_up(reference: &str, environment: Environment<'_>) -> Result<String, ExpandError> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if !is_name {
        return Err(ExpandError::BadName(name.to_owned()));
    }
    if default.is_some_and(|default| default.contains('$')) {
        return Err(ExpandError::NestedDefault(name.to_owned()));
    }
    match (environment(name), default) {
        (Ok(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Ok(value), _) => Ok(value),
        (Err(std::env::VarError::NotPresent), Some(default)) => Ok(default.to_owned()),
        (Err(std::env::VarError::NotPresent), None) => Err(ExpandError::Unset(name.to_owned())),
        (Err(std::env::VarError::NotUnicode(_)), _) => {
            Err(ExpandError::NotUnicode(name.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::env::VarError;

    use super::*;

    fn expanded(text: &str) -> Result<String, ExpandError> {
        expand_text(text, &|name| match name {
            "HOST" => Ok("web".to_owned()),
            "EMPTY" => Ok(String::new()),
            "TRAP" => Ok("${HOST}".to_owned()),
            _ => Err(VarError::NotPresent),
        })
    }

    #[test]
    fn variables_are_expanded() {
        for (text, result) in [
            ("${HOST}:80", "web:80"),
            ("${PORT:-80}", "80"),
            ("${HOST:-other}", "web"),
            ("[${EMPTY}]", "[]"),
            ("${EMPTY:-x}", "x"),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("a$$b$${HOST}", "a$b${HOST}"),
            ("${TRAP}", "${HOST}"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(result), "{text}");
        }
    }

    #[test]
    fn errors_explain_what_is_wrong() {
        assert_eq!(expanded("${NONE}"), Err(ExpandError::Unset("NONE".into())));
        assert_eq!(expanded("${HOST"), Err(ExpandError::Unclosed));
        assert_eq!(expanded("$HOST"), Err(ExpandError::LoneDollar));
        assert_eq!(expanded("5$"), Err(ExpandError::LoneDollar));
        for text in ["^client[0-9]+$", "client.*$", "(a|b)$"] {
            assert_eq!(expanded(text), Err(ExpandError::RegularExpression));
        }
        for name in ["", "1A", "A B", "A-B"] {
            let text = format!("${{{name}}}");
            assert_eq!(expanded(&text), Err(ExpandError::BadName(name.into())));
        }
    }
}
