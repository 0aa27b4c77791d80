//! Environment variables that the lines of the file set.

use std::collections::{HashMap, HashSet};

use super::{
    super::toml::{VARIABLE_END, VARIABLE_START},
    lexer::Line,
};

/// What is known about a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    /// `setenv`.
    Value(String),
    /// `presetenv`: this value, unless the environment has another one.
    Default(String),
    Unset,
}

/// The variables as they are after some lines of the file.
#[derive(Debug, Default)]
pub(super) struct Environment {
    variables: HashMap<String, Variable>,
    /// After `resetenv`: the variables that it keeps. All others are unset.
    kept: Option<HashSet<String>>,
}

impl Environment {
    /// Replaces the variables in the words of a line, then applies the line if it sets variables.
    pub(super) fn apply(&mut self, line: &mut Line) {
        for word in &mut line.words {
            *word = self.expand(word);
        }
        let (name, value) = (line.word(1).to_owned(), line.word(2).to_owned());
        match line.word(0) {
            "setenv" => {
                self.variables.insert(name, Variable::Value(value));
            }
            "presetenv" => self.preset(name, value),
            "unsetenv" => {
                let names = line.words.iter().skip(1).cloned();
                self.variables
                    .extend(names.map(|name| (name, Variable::Unset)));
            }
            "resetenv" => {
                let names: HashSet<_> = line.words.iter().skip(1).cloned().collect();
                self.variables.retain(|name, _| names.contains(name));
                let was_unset = |name: &String| {
                    let kept = self.kept.as_ref();
                    kept.is_some_and(|kept| !kept.contains(name))
                        && !self.variables.contains_key(name)
                };
                let kept = names.iter().filter(|name| !was_unset(name)).cloned();
                self.kept = Some(kept.collect());
            }
            _ => {}
        }
    }

    fn preset(&mut self, name: String, value: String) {
        let new = match self.get(&name) {
            Some(Variable::Unset) => Variable::Value(value),
            // The default of a variable cannot contain another variable in the configuration.
            None if value.contains(VARIABLE_START) => Variable::Value(value),
            None => Variable::Default(value),
            Some(Variable::Value(_) | Variable::Default(_)) => return,
        };
        self.variables.insert(name, new);
    }

    /// Returns what is known about a variable, or `None` if it depends on the environment.
    fn get(&self, name: &str) -> Option<&Variable> {
        let is_kept = self.kept.as_ref().is_none_or(|kept| kept.contains(name));
        let unknown = (!is_kept).then_some(&Variable::Unset);
        self.variables.get(name).or(unknown)
    }

    /// Whether a variable is set, or `None` if this depends on the environment.
    pub(super) fn is_defined(&self, name: &str) -> Option<bool> {
        self.get(name).map(|known| *known != Variable::Unset)
    }

    fn expand(&self, word: &str) -> String {
        let mut parts = word.split(VARIABLE_START);
        let mut expanded = parts.next().unwrap_or("").to_owned();
        for part in parts {
            let (variable, text) = part.split_once(VARIABLE_END).unwrap_or((part, ""));
            let (name, default) = variable.split_once(":-").unwrap_or((variable, ""));
            match self.get(name) {
                Some(Variable::Value(value)) => expanded.push_str(value),
                Some(Variable::Default(value)) => {
                    let variable = format!("{VARIABLE_START}{name}:-{value}{VARIABLE_END}");
                    expanded.push_str(&variable);
                }
                Some(Variable::Unset) => expanded.push_str(default),
                None => {
                    let variable = format!("{VARIABLE_START}{variable}{VARIABLE_END}");
                    expanded.push_str(&variable);
                }
            }
            expanded.push_str(text);
        }
        expanded
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lexer::lines, Environment};

    /// Returns the words of the last line.
    fn last(text: &str) -> String {
        let mut environment = Environment::default();
        let mut lines = lines(&"t".into(), text).unwrap();
        for line in &mut lines {
            environment.apply(line);
        }
        let words = lines.pop().unwrap().words.join(" ");
        words.replace('\u{1}', "<").replace('\u{2}', ">")
    }

    #[test]
    fn variables_of_the_file_are_replaced() {
        for (text, expected) in [
            (
                "setenv PORT 443\npresetenv IP ::1\nbind \"$IP:${PORT}\" \"$OTHER\"",
                "bind <IP:-::1>:443 <OTHER>",
            ),
            ("setenv PORT 443\nbind \":${PORT-80}\"", "bind :443"),
            (
                "presetenv PORT 443\nbind \":${PORT-80}\"",
                "bind :<PORT:-443>",
            ),
            // The first value of `presetenv` counts, and `setenv` replaces it.
            ("presetenv A 1\npresetenv A 2\nx \"$A\"", "x <A:-1>"),
            ("setenv A 1\npresetenv A 2\nx \"$A\"", "x 1"),
            ("presetenv A 1\nsetenv A 2\nx \"$A\"", "x 2"),
            // Values are replaced in the order of the file.
            (
                "setenv A 1\nsetenv B \"$A-$C\"\nsetenv C 3\nsetenv A 4\nx \"$B\"",
                "x 1-<C>",
            ),
            ("setenv A \"$B\"\nsetenv B \"$A\"\nx \"$A$B\"", "x <B><B>"),
            ("presetenv A \"$B\"\nx \"$A\"", "x <B>"),
        ] {
            assert_eq!(last(text), expected, "{text}");
        }
    }

    #[test]
    fn removed_variables_are_empty() {
        for (text, expected) in [
            ("setenv A 1\nunsetenv A B\nx \"a$A$B${A-d}\"", "x ad"),
            ("unsetenv A\npresetenv A 2\nx \"$A\"", "x 2"),
            (
                "setenv A 1\nsetenv B 2\nresetenv B C\nx \"[$A$B$C$D]\"",
                "x [2<C>]",
            ),
            ("setenv A 1\nresetenv\nx \"[$A${D-d}]\"", "x [d]"),
            ("resetenv B\nresetenv A B\nx \"[$A$B]\"", "x [<B>]"),
            ("resetenv\npresetenv A 1\nx \"$A\"", "x 1"),
        ] {
            assert_eq!(last(text), expected, "{text}");
        }
    }
}
