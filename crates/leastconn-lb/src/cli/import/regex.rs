//! Translates regular expressions that are equivalent to a list of names or wildcards.

use super::{access::Key, values::is_accepted};

/// Maximum number of names for one regular expression.
const LARGEST: usize = 64;

/// Maximum number of labels before a domain, if the source accepts any number.
const DEPTH: usize = 3;

/// The texts that an expression matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(String),
    /// One or more labels, a dot, and this domain.
    Below(String),
    /// Exactly one label, a dot, and this domain.
    Label(String),
    /// This text, a dot, and one or more labels.
    After(String),
    /// This text between dots, with at least this number of labels before and after it.
    Around(String, usize),
}

impl Pattern {
    /// Describes the names that the source matches, but not [`Self::names`].
    pub(crate) fn others(&self, key: Key) -> Option<&'static str> {
        match self {
            Self::Exact(_) => None,
            // `*` in a rule does not match `*` in a certificate. Handshakes with `*` in the server
            // name (SNI) fail.
            Self::Label(_) => (key != Key::Sni).then_some("names in which a label is `*`"),
            Self::Below(_) | Self::After(_) | Self::Around(..) => {
                Some("names with more than three further labels")
            }
        }
    }

    pub(crate) fn has_capital(&self) -> bool {
        let (Self::Exact(text)
        | Self::Below(text)
        | Self::Label(text)
        | Self::After(text)
        | Self::Around(text, _)) = self;
        text.contains(|c: char| c.is_ascii_uppercase())
    }

    /// Returns the pattern as values of `key`. `None` if it cannot be expressed.
    pub(crate) fn names(&self, key: Key) -> Option<Vec<String>> {
        let lower = |text: &str| match key {
            Key::Sni | Key::Dns => text.to_ascii_lowercase(),
            _ => text.to_owned(),
        };
        let names = match self {
            Self::Exact(text) if text.is_empty() || text.contains('*') => None,
            Self::Exact(text) => Some(vec![lower(text)]),
            Self::Below(domain) if is_valid(domain, key) => {
                let domain = lower(domain);
                let patterns = (1..=DEPTH).map(|depth| format!("{}{domain}", "*.".repeat(depth)));
                Some(patterns.collect())
            }
            Self::Label(domain) if is_valid(domain, key) => {
                Some(vec![format!("*.{}", lower(domain))])
            }
            Self::After(text) if is_valid(text, key) => {
                let patterns = (1..=DEPTH).map(|depth| format!("{text}{}", ".*".repeat(depth)));
                Some(patterns.map(|pattern| lower(&pattern)).collect())
            }
            Self::Around(text, least) if is_valid(text, key) => {
                let pattern = |before: usize, after: usize| {
                    let (before, after) = ("*.".repeat(before), ".*".repeat(after));
                    lower(&format!("{before}{text}{after}"))
                };
                let before = *least..=DEPTH;
                let pairs = before.flat_map(|a| (*least..=DEPTH - a).map(move |b| (a, b)));
                Some(
                    pairs
                        .map(|(before, after)| pattern(before, after))
                        .collect(),
                )
            }
            Self::Below(_) | Self::Label(_) | Self::After(_) | Self::Around(..) => None,
        };
        names.filter(|names| names.iter().all(|name| is_accepted(key, name)))
    }
}

/// Whether `text` can be a part of a pattern with wildcards.
fn is_valid(text: &str, key: Key) -> bool {
    matches!(key, Key::Sni | Key::Cn | Key::Dns)
        && !text.contains('*')
        && !text.split('.').any(str::is_empty)
}

/// Returns the patterns of a regular expression that matches a whole text. Literals, escapes and
/// groups of alternatives are supported, even after `.*\.` or `[^.]+\.`. Returns `None` for all
/// other expressions.
pub(crate) fn patterns(expression: &str) -> Option<Vec<Pattern>> {
    if let Some(domain) = expression.strip_prefix("\\.") {
        let literals = literals(domain.strip_suffix('$')?)?;
        return Some(literals.into_iter().map(Pattern::Below).collect());
    }
    let inner = expression.strip_prefix('^').unwrap_or(expression);
    for any in [".*\\.", ".+\\."] {
        if let Some(domain) = inner.strip_prefix(any) {
            let literals = literals(domain.strip_suffix('$')?)?;
            return Some(literals.into_iter().map(Pattern::Below).collect());
        }
    }
    let inner = expression.strip_prefix('^')?.strip_suffix('$')?;
    if let Some(domain) = inner
        .strip_prefix("[^.]+\\.")
        .or(inner.strip_prefix("[^\\.]+\\."))
    {
        let literals = literals(domain)?;
        return Some(literals.into_iter().map(Pattern::Label).collect());
    }
    let literals = literals(inner)?;
    Some(literals.into_iter().map(Pattern::Exact).collect())
}

/// Returns an expression that matches only this text.
pub(crate) fn escaped(text: &str) -> String {
    let mut expression = String::new();
    for c in text.chars() {
        if "\\.*+?[]{}()|^$".contains(c) {
            expression.push('\\');
        }
        expression.push(c);
    }
    expression
}

/// Returns all texts that match an expression of literals, escapes and groups of alternatives.
/// Returns `None` for other expressions.
pub(crate) fn literals(expression: &str) -> Option<Vec<String>> {
    let mut texts = vec![String::new()];
    let mut chars = expression.chars().peekable();
    while let Some(c) = chars.next() {
        let choices = match c {
            '\\' => {
                let c = chars.next()?;
                if c.is_ascii_alphanumeric() {
                    return None;
                }
                vec![c.to_string()]
            }
            '(' => {
                let mut group = String::new();
                loop {
                    match chars.next()? {
                        ')' => break,
                        '\\' => group.extend(['\\', chars.next()?]),
                        '(' => return None,
                        c => group.push(c),
                    }
                }
                let group = group.strip_prefix("?:").unwrap_or(&group);
                let parts = group.split('|').map(literals);
                parts.collect::<Option<Vec<_>>>()?.concat()
            }
            '.' | '*' | '+' | '?' | '[' | ']' | '{' | '}' | '|' | ')' | '^' | '$' => return None,
            c => vec![c.to_string()],
        };
        if matches!(chars.peek(), Some('*' | '+' | '?' | '{')) {
            return None;
        }
        let combined = texts
            .iter()
            .flat_map(|text| choices.iter().map(move |choice| format!("{text}{choice}")));
        texts = combined.collect();
        if texts.len() > LARGEST {
            return None;
        }
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::{Key, Pattern, patterns};

    #[test]
    fn literal_expressions_are_names() {
        let exact = |text: &str| Pattern::Exact(text.to_owned());
        let below = |text: &str| Pattern::Below(text.to_owned());
        for (expression, expected) in [
            (r"^db\.example\.com$", vec![exact("db.example.com")]),
            (r"^(a|b)\.x$", vec![exact("a.x"), exact("b.x")]),
            (r"^client[0-9]$", vec![]),
            (r"\.example\.com$", vec![below("example.com")]),
            (r"^.*\.example\.com$", vec![below("example.com")]),
            (r"db\.example\.com", vec![]),
            (r"^ab?$", vec![]),
            (r"^a.b$", vec![]),
        ] {
            assert_eq!(
                patterns(expression).unwrap_or_default(),
                expected,
                "{expression}"
            );
        }
    }

    #[test]
    fn patterns_have_up_to_three_further_labels() {
        let after = Pattern::After("a.b".to_owned());
        let expected = ["a.b.*", "a.b.*.*", "a.b.*.*.*"].map(str::to_owned);
        assert_eq!(after.names(Key::Cn).unwrap(), expected);
        let around = Pattern::Around("X".to_owned(), 1);
        let expected = ["*.x.*", "*.x.*.*", "*.*.x.*"].map(str::to_owned);
        assert_eq!(around.names(Key::Sni).unwrap(), expected);
        let names = Pattern::Around("x".to_owned(), 0).names(Key::Sni).unwrap();
        assert_eq!(names.len(), 10);
        assert!(names.contains(&"x".to_owned()));
        for text in ["", "a*", "a..b"] {
            assert_eq!(Pattern::After(text.to_owned()).names(Key::Cn), None);
            assert_eq!(Pattern::Below(text.to_owned()).names(Key::Cn), None);
        }
        assert_eq!(after.names(Key::Ou), None);
    }
}
