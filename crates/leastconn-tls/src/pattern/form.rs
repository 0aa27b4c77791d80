//! The positions of wildcards in a pattern.
//!
//! These positions are the form of the pattern. Of all patterns with the same form, only one
//! can match a given text: the text with wildcards at these positions. Even a very large set
//! of patterns has few forms. A lookup therefore needs one search per form, not a comparison
//! with each pattern.

/// A part of a pattern: a label of a DNS name or a segment of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Literal,
    /// `*`
    Any,
    /// `**` at the end: one or more parts.
    Rest,
}

/// The positions of the wildcards in a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form {
    separator: char,
    parts: Vec<Part>,
}

impl Form {
    /// The form of a valid pattern.
    pub fn of(pattern: &str, separator: char) -> Self {
        let part = |part: &str| match part {
            "*" => Part::Any,
            "**" => Part::Rest,
            _ => Part::Literal,
        };
        Self {
            separator,
            parts: pattern.split(separator).map(part).collect(),
        }
    }

    /// Returns the only pattern of this form that can match `text`. If `text` is a pattern
    /// itself, the result is the only pattern of this form that can cover it. Returns `None`
    /// if the number of parts differs.
    pub fn candidate(&self, text: &str) -> Option<String> {
        let mut pattern = String::with_capacity(text.len());
        let mut given = text.split(self.separator);
        for (position, part) in self.parts.iter().enumerate() {
            let given = given.next()?;
            if position > 0 {
                pattern.push(self.separator);
            }
            match part {
                Part::Literal => pattern.push_str(given),
                Part::Any => pattern.push('*'),
                Part::Rest => {
                    pattern.push_str("**");
                    return Some(pattern);
                }
            }
        }
        given.next().is_none().then_some(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_replaces_parts_by_wildcards() {
        for (pattern, separator, text, candidate) in [
            ("*.lb.com", '.', "a.lb.com", Some("*.lb.com")),
            ("*.lb.com", '.', "a.other.org", Some("*.other.org")),
            ("*.lb.com", '.', "*.lb.com", Some("*.lb.com")),
            ("*.lb.com", '.', "lb.com", None),
            ("*.lb.com", '.', "a.b.lb.com", None),
            ("a.*.c", '.', "x.y.z", Some("x.*.z")),
            (
                "spiffe://td/*/web",
                '/',
                "spiffe://td/a/b",
                Some("spiffe://td/*/b"),
            ),
            (
                "spiffe://td/a/**",
                '/',
                "spiffe://td/b/c/d",
                Some("spiffe://td/b/**"),
            ),
            (
                "spiffe://td/*/**",
                '/',
                "spiffe://td/b/**",
                Some("spiffe://td/*/**"),
            ),
            ("spiffe://td/a/**", '/', "spiffe://td/a", None),
            (
                "https://a:1/*/b/**",
                '/',
                "https://a:1/c/b/d/e",
                Some("https://a:1/*/b/**"),
            ),
            ("https://a/*", '/', "urn:x", None),
        ] {
            let found = Form::of(pattern, separator).candidate(text);
            assert_eq!(found.as_deref(), candidate, "{pattern} {text}");
        }
    }
}
