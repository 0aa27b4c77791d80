//! Syntax of a test: a fetch with converters, flags and values.

use std::path::Path;

use super::read;

/// A parsed test, such as `ssl_c_s_dn(cn),lower -m str admin`.
#[derive(Debug)]
pub(super) struct Criterion<'a> {
    pub(super) fetch: &'a str,
    /// The text between the parentheses after the fetch.
    pub(super) argument: &'a str,
    /// The names of the converters with their arguments. Empty if there are none.
    pub(super) converters: &'a str,
    /// The value of `-m`, or the suffix of the fetch, as in `ssl_c_s_dn_beg`.
    pub(super) method: Option<&'a str>,
    /// The flag `-i`.
    pub(super) ignores_case: bool,
    pub(super) values: Vec<String>,
}

impl<'a> Criterion<'a> {
    /// Parses the words of a test. `dir` is the directory of relative files.
    pub(super) fn parse(words: &'a [String], dir: Option<&Path>) -> Result<Self, String> {
        let (expression, mut rest) = words.split_first().ok_or("the condition is empty")?;
        let (fetch, argument, converters) =
            split(expression).ok_or_else(|| format!("{expression:?} has no equivalent"))?;
        let mut criterion = Self {
            fetch,
            argument,
            converters,
            method: None,
            ignores_case: false,
            values: Vec::new(),
        };
        // Words after the first value are values, even if they start with `-`.
        while let [flag, after @ ..] = rest
            && flag.starts_with('-')
        {
            rest = after;
            match flag.as_str() {
                "--" => break,
                "-i" => criterion.ignores_case = true,
                "-n" => {}
                "-u" => rest = rest.get(1..).unwrap_or(&[]),
                "-m" => {
                    criterion.method = Some(rest.first().map_or("", String::as_str));
                    rest = rest.get(1..).unwrap_or(&[]);
                }
                "-f" => {
                    let file = rest.first().map_or("", String::as_str);
                    rest = rest.get(1..).unwrap_or(&[]);
                    let lines = read(dir, file).ok_or_else(|| format!("cannot read {file:?}"))?;
                    criterion.values.extend(lines);
                }
                _ => return Err(format!("the flag {flag:?} has no equivalent")),
            }
        }
        criterion.values.extend(rest.iter().cloned());
        if let Some((base, suffix @ ("end" | "beg" | "reg" | "sub" | "dom" | "dir"))) =
            fetch.rsplit_once('_')
            && (base.starts_with("ssl_") || base.starts_with("req"))
        {
            criterion.fetch = base;
            criterion.method = Some(suffix);
        }
        Ok(criterion)
    }

    /// Whether the values are a comparison with a number, such as `gt 2`.
    pub(super) fn compares_number(&self) -> bool {
        let operator = self.values.first().map(String::as_str);
        matches!(operator, Some("eq" | "ne" | "ge" | "gt" | "le" | "lt"))
    }

    /// Returns the number that the test compares for equality, if it has no other value.
    pub(super) fn number(&self) -> Option<&str> {
        let values: Vec<_> = self.values.iter().map(String::as_str).collect();
        match (self.method, values.as_slice()) {
            (None | Some("int"), ["eq", number] | [number]) => Some(number),
            _ => None,
        }
    }
}

/// Splits `FETCH(ARGUMENT),CONVERTERS`. Returns `None` if the parentheses do not match.
fn split(expression: &str) -> Option<(&str, &str, &str)> {
    let at = expression.find(['(', ',']).unwrap_or(expression.len());
    let (fetch, rest) = expression.split_at(at);
    let (argument, rest) = match rest.strip_prefix('(') {
        Some(inner) => inner.split_once(')')?,
        None => ("", rest),
    };
    if rest.is_empty() {
        return Some((fetch, argument, ""));
    }
    let converters = rest.strip_prefix(',')?;
    (!argument.contains('(') && !converters.is_empty()).then_some((fetch, argument, converters))
}
