//! Valid and unique names of listeners, upstreams, servers and clients.

use std::collections::HashSet;

use leastconn_config::names::{MAX_LENGTH, is_allowed};

/// Assigns valid and unique names.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<String>);

impl Names {
    /// Returns `wanted` with invalid characters replaced, and with a number if it is taken.
    pub(crate) fn unique(&mut self, wanted: &str) -> String {
        let wanted = valid(wanted);
        let mut name = wanted.clone();
        let mut number = 2;
        while !self.0.insert(name.clone()) {
            let suffix = format!("-{number}");
            let length = wanted.len().min(MAX_LENGTH - suffix.len());
            name = format!("{}{suffix}", &wanted[..length]);
            number += 1;
        }
        name
    }
}

/// Replaces characters that names cannot contain. The name does not start with `-` or `.`, so that it
/// looks like no option of a command and no hidden file.
pub(crate) fn valid(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| if is_allowed(c) { c } else { '-' })
        .skip_while(|c| matches!(c, '-' | '.'))
        .take(MAX_LENGTH)
        .collect();
    if name.is_empty() {
        "unnamed".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_are_valid_and_unique() {
        let mut names = Names::default();
        assert_eq!(names.unique("web"), "web");
        assert_eq!(names.unique("web"), "web-2");
        assert_eq!(names.unique("10.0.0.1:80"), "10.0.0.1-80");
        assert_eq!(names.unique("*.bad.com"), "bad.com");
        assert_eq!(names.unique("*.*.bad.com"), "bad.com-2");
        assert_eq!(names.unique("-.x"), "x");
        assert_eq!(names.unique(""), "unnamed");
        assert_eq!(names.unique("*.*"), "unnamed-2");
        assert_eq!(names.unique(&"x".repeat(80)).len(), 64);
        assert_eq!(names.unique(&"x".repeat(80)).len(), 64);
    }
}
