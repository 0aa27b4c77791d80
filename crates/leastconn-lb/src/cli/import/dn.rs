//! Distinguished names in the notations of OpenSSL and RFC 2253.

use super::{
    access::{Key, Predicate},
    regex,
    values::is_accepted,
};

/// Why a rule for a whole distinguished name differs from the source.
pub(crate) const WIDER: &str = "client rules do not compare whole distinguished names: the rule \
    also matches names with further attributes";

/// Why a rule for a name differs from a source that ignores case.
pub(crate) const CASE: &str = "client rules compare names with case, the source does not: the rule \
    matches only this spelling";

/// Ends of a regular expression after a common name that match no longer names.
const EXACT_ENDS: [&str; 8] = [
    "(,|$)", "(?:,|$)", "($|,)", "(,.*)?$", ",.*$", ",.*", ",", "$",
];

/// Common names that a regular expression matches.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommonNames {
    pub(crate) names: Vec<String>,
    /// The expression matches no other common names.
    pub(crate) is_exact: bool,
    /// The expression also restricts other attributes, as `^CN=a$` and `^CN=a,` do. A rule for the
    /// names alone therefore matches more certificates.
    pub(crate) is_wider: bool,
    /// The expression restricts what precedes or follows the name, so that it misses a name in
    /// a component with several attributes, such as `CN=a+OU=b`.
    pub(crate) is_bounded: bool,
}

/// Returns the predicate for a subject such as `/OU=a/CN=b` or `CN=b,OU=a`. It is wider than the
/// subject, because it ignores further attributes of a certificate.
///
/// # Errors
/// If `name` has attributes that client rules cannot compare, or no common name.
pub(crate) fn subject(name: &str) -> Result<Predicate, String> {
    let (mut cn, mut ou) = (Vec::new(), Vec::new());
    let mut others = Vec::new();
    for (attribute, value) in attributes(name) {
        match attribute.to_ascii_uppercase().as_str() {
            "CN" => cn.push(value),
            "OU" => ou.push(value),
            _ => others.push(attribute),
        }
    }
    if !others.is_empty() {
        return Err(format!(
            "client rules do not compare {} of a subject; `cn` alone would accept more clients",
            others.join(", ")
        ));
    }
    let [cn] = cn.as_slice() else {
        return Err(format!("{name:?} does not have exactly one common name"));
    };
    let is_accepted = is_accepted(Key::Cn, cn) && ou.iter().all(|ou| is_accepted(Key::Ou, ou));
    if cn.contains('*') || ou.len() > 1 || !is_accepted {
        return Err(format!("{name:?} has no equivalent"));
    }
    let mut predicate = Predicate::new(Key::Cn, vec![cn.clone()]);
    if !ou.is_empty() {
        predicate.require(Key::Ou, ou);
    }
    Ok(predicate)
}

/// Returns the common names that a regular expression on an RFC 2253 subject matches. Unescaped
/// dots are treated as literal dots.
pub(crate) fn common_names(expression: &str) -> Option<CommonNames> {
    let (start, rest) = expression.split_once("CN=")?;
    let starts_exactly = matches!(
        start,
        "^" | "(^|,)" | "(?:^|,)" | "(,|^)" | "^(.*,)?" | "^.*,"
    );
    if !starts_exactly && !matches!(start, "" | "^.*" | ".*") {
        return None;
    }
    let end = EXACT_ENDS.into_iter().find(|end| rest.ends_with(end));
    let name = rest.strip_suffix(end.unwrap_or(".*")).unwrap_or(rest);
    let mut literal = String::new();
    let mut chars = name.chars().peekable();
    let mut has_any = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => literal.extend(['\\', chars.next()?]),
            '.' if !matches!(chars.peek(), Some('*' | '+' | '?' | '{')) => {
                has_any = true;
                literal.push_str("\\.");
            }
            c => literal.push(c),
        }
    }
    let names = regex::literals(&literal)?;
    let is_valid = |name: &String| !name.is_empty() && !name.contains([',', '*', '=']);
    let is_exact = starts_exactly && end.is_some() && !has_any;
    let is_wider = matches!(start, "^" | "^.*,")
        || end.is_some_and(|end| matches!(end, ",.*$" | ",.*" | "," | "$"));
    names.iter().all(is_valid).then_some(CommonNames {
        names,
        is_exact,
        is_wider,
        is_bounded: starts_exactly || end.is_some(),
    })
}

/// Returns the common name of a subject, ignoring its other attributes.
pub(crate) fn common_name(name: &str) -> Option<String> {
    let found = attributes(name).into_iter();
    let mut found = found.filter(|(attribute, _)| attribute.eq_ignore_ascii_case("CN"));
    let (_, value) = found.next()?;
    (found.next().is_none() && !value.is_empty() && !value.contains('*')).then_some(value)
}

/// Returns the units of an expression on an RFC 2253 subject that matches exactly the subjects with
/// one of these units, such as `(^|,)OU=X(,|$)`.
pub(crate) fn units(expression: &str) -> Option<Vec<String>> {
    let (start, rest) = expression.split_once("OU=")?;
    if !matches!(start, "(^|,)" | "(?:^|,)" | "(,|^)" | "^(.*,)?") {
        return None;
    }
    let ends = ["(,|$)", "(?:,|$)", "($|,)", "(,.*)?$"];
    let name = ends.into_iter().find_map(|end| rest.strip_suffix(end))?;
    let names = regex::literals(name)?;
    let is_valid = |name: &String| !name.is_empty() && !name.contains([',', '*', '=', '\\']);
    names.iter().all(is_valid).then_some(names)
}

/// Returns a common name and a unit for an example in a comment, if a rule for them admits at most
/// the clients of the expression, apart from their further attributes.
pub(crate) fn example(expression: &str) -> Option<(Option<String>, String)> {
    let starts = ["^(.*,)?", "(^|,)", "(?:^|,)", "(,|^)", "^.*", ".*", "^", ""];
    let ends = ["(,|$)", "(?:,|$)", "($|,)", "(,.*)?$", ".*$", ".*", "$", ""];
    let (start, rest) = starts
        .iter()
        .find_map(|start| Some((*start, expression.strip_prefix(start)?)))?;
    let (end, inner) = ends
        .iter()
        .find_map(|end| Some((*end, rest.strip_suffix(end)?)))?;
    let (mut name, mut unit) = (None, None);
    for part in inner.split(',') {
        let (attribute, value) = part.strip_prefix(".*").unwrap_or(part).split_once('=')?;
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.');
        if value.is_empty() || !value.chars().all(is_plain) {
            return None;
        }
        let known = match attribute {
            "CN" => &mut name,
            "OU" => &mut unit,
            _ => return None,
        };
        if known.replace(value.to_owned()).is_some() {
            return None;
        }
    }
    // A rule for the unit alone ignores what an anchored expression requires before or after it.
    let is_anchored = start == "^" || end == "$";
    let unit = unit.filter(|_| name.is_some() || !is_anchored)?;
    Some((name, unit))
}

/// Explains which other names an expression on a subject matches. The second text is the expression
/// that matches only `names`.
pub(crate) fn longer_names(expression: &str, names: &[String]) -> (String, String) {
    let first = names.first().map_or("", String::as_str);
    let (start, _) = expression.split_once("CN=").unwrap_or((expression, ""));
    let ends = EXACT_ENDS.into_iter().any(|end| expression.ends_with(end));
    let matched = if !ends {
        format!("also matches longer names, such as \"{first}2\"")
    } else if matches!(start, "" | "^.*" | ".*") {
        format!("also matches longer names, such as \"CN={first}\"")
    } else {
        "also matches other names, because a dot matches any character".to_owned()
    };
    let escaped: Vec<_> = names.iter().map(|name| regex::escaped(name)).collect();
    let name = match escaped.as_slice() {
        [one] => one.clone(),
        many => format!("({})", many.join("|")),
    };
    (matched, format!("~(^|,)CN={name}(,|$)"))
}

/// Returns the name of the group that captures the whole common name, in a regular expression on an
/// RFC 2253 subject such as `CN=(?<name>[^,]+)`.
pub(crate) fn captured_common_name(expression: &str) -> Option<String> {
    let (start, rest) = expression.split_once("CN=")?;
    let is_start = matches!(
        start,
        "" | "(^|,)" | "(?:^|,)" | "(,|^)" | "^(.*,)?" | "^.*" | ".*" | "^(?:.*,)?"
    );
    let (group, end) = rest.strip_prefix('(')?.rsplit_once("+)")?;
    let is_end = matches!(
        end,
        "" | "(,|$)" | "(?:,|$)" | "($|,)" | "(,.*)?$" | ".*" | ".*$"
    );
    if !is_start || !is_end {
        return None;
    }
    let named = group.strip_prefix("?<").or(group.strip_prefix("?P<"));
    // The first group has the number 1, unless the start also has a group.
    let (name, class) = match named {
        Some(named) => named.split_once('>')?,
        None if start.contains('(') && !start.contains("(?:") => ("2", group),
        None => ("1", group),
    };
    let is_class = matches!(
        class,
        "[^,]" | "[^,/]" | "[^/,]" | "[^,\\/]" | "[^,\\s]" | "[^,\\+]" | "[^,+]"
    );
    // Without an end, the other classes capture a part of a longer name.
    let is_whole =
        matches!(class, "[^,]" | "[^,\\+]" | "[^,+]") || !matches!(end, "" | ".*" | ".*$");
    (is_class && is_whole).then(|| name.to_owned())
}

/// Returns the attributes of a distinguished name, with their values.
fn attributes(name: &str) -> Vec<(String, String)> {
    let (separator, name) = match name.strip_prefix('/') {
        Some(rest) => ('/', rest),
        None => (',', name),
    };
    let mut parts = vec![String::new()];
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '\\' => part.extend(chars.next()),
            c if c == separator => parts.push(String::new()),
            c => part.push(c),
        }
    }
    let pairs = parts.iter().map(|part| {
        let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
        (attribute.trim().to_owned(), value.trim().to_owned())
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::access::Key, captured_common_name, common_names, subject, units};

    #[test]
    fn common_name_and_unit_are_compared() {
        for name in ["CN=a,OU=b", "/OU=b/CN=a", "ou=b, cn=a"] {
            let predicate = subject(name).unwrap();
            assert_eq!(predicate.get(Key::Cn).unwrap(), ["a"]);
            assert_eq!(predicate.get(Key::Ou).unwrap(), ["b"]);
        }
    }

    #[test]
    fn expressions_on_common_names() {
        for (expression, expected, is_exact) in [
            ("CN=client1.lb.com", "client1.lb.com", false),
            (r"(^|,)CN=client1\.lb\.com(,|$)", "client1.lb.com", true),
            (r"^CN=(a|b)(,|$)", "a b", true),
            (r"^CN=a,", "a", true),
        ] {
            let found = common_names(expression).unwrap();
            assert_eq!(
                (found.names.join(" ").as_str(), found.is_exact),
                (expected, is_exact),
                "{expression}"
            );
        }
        for expression in ["O=x", "CN=.*", "CN=client[0-9]+", "^(?!CN=a)CN=b$"] {
            assert_eq!(common_names(expression), None, "{expression}");
        }
    }

    #[test]
    fn anchored_expressions_are_narrower_than_their_names() {
        for (expression, is_wider) in [
            ("CN=a", false),
            ("(^|,)CN=a(,|$)", false),
            ("^(.*,)?CN=a(,.*)?$", false),
            ("^.*CN=a(?:,|$)", false),
            ("^CN=a$", true),
            ("^CN=a", true),
            ("CN=a$", true),
            ("^CN=a,", true),
            ("^CN=(a|b)(,|$)", true),
            ("(^|,)CN=a,.*$", true),
            ("^.*,CN=a(,|$)", true),
        ] {
            let found = common_names(expression).unwrap();
            assert_eq!(found.is_wider, is_wider, "{expression}");
        }
    }

    #[test]
    fn examples_admit_no_more_than_the_expression() {
        let example = |expression: &str| super::example(expression);
        let unit = |unit: &str| Some((None, unit.to_owned()));
        assert_eq!(example("OU=Ops"), unit("Ops"));
        assert_eq!(example("(^|,)OU=Ops.*"), unit("Ops"));
        let both = Some((Some("dave".to_owned()), "Ops".to_owned()));
        assert_eq!(example("^CN=dave,OU=Ops$"), both);
        assert_eq!(example("CN=dave,.*OU=Ops"), both);
        for expression in [
            "^OU=Ops$",
            "^(?!.*OU=Ops)",
            "^CN=[a-z]+,OU=Ops$",
            "OU=Ops,O=x",
            "OU=[a-z]+",
            "CN=dave",
        ] {
            assert_eq!(example(expression), None, "{expression}");
        }
    }

    #[test]
    fn only_whole_units_are_translated() {
        for (expression, expected) in [
            ("(^|,)OU=a(,|$)", Some("a")),
            ("^(.*,)?OU=(a|b)(,.*)?$", Some("a b")),
            ("OU=a", None),
            ("(^|,)OU=a", None),
            ("OU=a(,|$)", None),
            ("(^|,)OU=a.b(,|$)", None),
        ] {
            let found = units(expression).map(|units| units.join(" "));
            assert_eq!(found.as_deref(), expected, "{expression}");
        }
    }

    #[test]
    fn captures_of_the_common_name() {
        for (expression, expected) in [
            ("CN=(?<name>[^,]+)", Some("name")),
            ("(^|,)CN=(?P<cn>[^,]+)(,|$)", Some("cn")),
            ("(?:^|,)CN=([^,]+)", Some("1")),
            ("(^|,)CN=([^,]+)", Some("2")),
            ("CN=(?<cn>[a-z]+)", None),
            ("^CN=(?<cn>[^,]+)", None),
            ("CN=(?<cn>[^,/]+)", None),
            (r"CN=(?<cn>[^,\s]+).*$", None),
            (r"CN=(?<cn>[^,\s]+)(,|$)", Some("cn")),
            ("O=(?<o>[^,]+)", None),
            ("CN=a", None),
        ] {
            let found = captured_common_name(expression);
            assert_eq!(found.as_deref(), expected, "{expression}");
        }
    }

    #[test]
    fn other_attributes_are_an_error() {
        for name in ["CN=a,O=b", "/C=DE/CN=a", "OU=b", "CN=a,CN=b", "CN=*"] {
            assert!(subject(name).is_err(), "{name}");
        }
    }
}
