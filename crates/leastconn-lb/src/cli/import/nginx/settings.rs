//! Directives of a `server` block, including inherited directives of `stream`.

use super::{super::units, parser::Directive};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) stream: &'a [Directive],
    pub(crate) server: &'a [Directive],
}

impl<'a> Settings<'a> {
    /// Returns the directive of the server or, if there is none, of `stream`. A directive without a
    /// value is ignored.
    pub(crate) fn one(self, name: &str) -> Option<&'a Directive> {
        let is_set = |line: &&Directive| line.name() == name && !line.word(1).is_empty();
        let find = |list: &'a [Directive]| list.iter().rev().find(is_set);
        find(self.server).or_else(|| find(self.stream))
    }

    /// Returns all directives of this name. If the server has any, it inherits none.
    pub(crate) fn all(self, names: &[&str]) -> Vec<&'a Directive> {
        let find = |list: &'a [Directive]| -> Vec<&'a Directive> {
            list.iter()
                .filter(|line| names.contains(&line.name()) && !line.word(1).is_empty())
                .collect()
        };
        let own = find(self.server);
        if own.is_empty() {
            find(self.stream)
        } else {
            own
        }
    }

    pub(crate) fn is_on(self, name: &str) -> bool {
        self.one(name).is_some_and(|line| line.word(1) == "on")
    }

    /// Returns a duration in milliseconds.
    pub(crate) fn duration(self, name: &str) -> Option<u64> {
        units::milliseconds(self.one(name)?.word(1), 1000)
    }
}
