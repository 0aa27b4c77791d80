//! Which parts of a pattern are left open, apart from what the others say.
//!
//! A text that stands for a pattern becomes the pattern itself once the same parts of
//! it are left open. So whoever has very many patterns need not try one after
//! another: there are few forms, and for each of them one text to look up.

/// What a part of a pattern stands for: a label of a name, a segment of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Itself,
    /// `*`
    Any,
    /// `**`, at the end: one or more.
    Rest,
}

/// The form of patterns with wildcards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form {
    separator: char,
    parts: Vec<Part>,
}

impl Form {
    /// That of a pattern which was checked, and whose parts are separated so.
    pub fn of(pattern: &str, separator: char) -> Self {
        let part = |part: &str| match part {
            "*" => Part::Any,
            "**" => Part::Rest,
            _ => Part::Itself,
        };
        Self {
            separator,
            parts: pattern.split(separator).map(part).collect(),
        }
    }

    /// The one pattern of this form that `text` may stand for, or, if it is a pattern
    /// itself, that may cover it. `None`: none does.
    pub fn blank(&self, text: &str) -> Option<String> {
        let mut blank = String::with_capacity(text.len());
        let mut given = text.split(self.separator);
        for (position, part) in self.parts.iter().enumerate() {
            let given = given.next()?;
            if position > 0 {
                blank.push(self.separator);
            }
            match part {
                Part::Itself => blank.push_str(given),
                Part::Any => blank.push('*'),
                Part::Rest => {
                    blank.push_str("**");
                    return Some(blank);
                }
            }
        }
        given.next().is_none().then_some(blank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_may_stand_for_is_the_pattern_itself() {
        for (pattern, separator, text, blank) in [
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
            let found = Form::of(pattern, separator).blank(text);
            assert_eq!(found.as_deref(), blank, "{pattern} {text}");
        }
    }
}
