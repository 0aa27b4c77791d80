//! Revocation lists in a file of authorities.

use super::Loader;
use crate::raw::value::{At, OneOrMany};

impl Loader<'_> {
    /// Warns of revocation lists in the file of authorities that `crl` does not name.
    pub(in crate::tls) fn lists_among_authorities(&mut self, crl: Option<&At<OneOrMany>>) {
        let Some((At { value, span }, line)) = self.list_among_authorities.take() else {
            return;
        };
        if !crl
            .into_iter()
            .flat_map(At::each)
            .any(|at| at.value == value)
        {
            self.problems
                .warning(format!(
                    "{value:?}: line {line}: the revocation list is not in force"
                ))
                .at(span)
                .note(format!("`{}` takes certificates only", self.ca))
                .help(format!("name the file in `crl` too: `crl = {value:?}`"));
        }
    }
}
