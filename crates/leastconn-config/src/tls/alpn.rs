//! Application protocols (ALPN, RFC 7301).

use std::ops::Range;

use leastconn_tls::alpn::Alpn;

use super::loader::Loader;
use crate::raw::value::{At, OneOrMany};

/// Maximum length of a protocol name in the extension, in bytes.
const MAX_LENGTH: usize = 255;

/// Common wrong names, each with the registered name.
const MISTAKES: [(&str, &str); 11] = [
    ("http", "http/1.1"),
    ("http1", "http/1.1"),
    ("http1.1", "http/1.1"),
    ("http/2", "h2"),
    ("http2", "h2"),
    ("http/2.0", "h2"),
    ("h2c", "h2"),
    ("grpc", "h2"),
    ("postgres", "postgresql"),
    ("pgsql", "postgresql"),
    ("pg", "postgresql"),
];

impl Loader<'_> {
    /// Converts the protocols in `alpn`, and reports problems.
    pub(super) fn alpn(&mut self, alpn: Option<&At<OneOrMany>>) -> Alpn {
        let Some(at) = alpn else {
            return Alpn::default();
        };
        let texts = at.each();
        if texts.is_empty() && !self.is_pruned(&at.span) {
            self.problems
                .error("`alpn` is an empty list")
                .at(at.span.clone())
                .help("remove the key to negotiate no application protocol");
        }
        let mut seen: Vec<(&str, Range<usize>)> = Vec::new();
        for text in &texts {
            self.protocol(text, &mut seen);
        }
        Alpn::new(seen.iter().map(|(name, _)| (*name).to_owned()).collect())
    }

    fn protocol<'a>(&mut self, text: &At<&'a str>, seen: &mut Vec<(&'a str, Range<usize>)>) {
        let name = text.value;
        if name.is_empty() || name.len() > MAX_LENGTH {
            self.problems
                .error(format!(
                    "an application protocol has 1 to {MAX_LENGTH} bytes, but this one has {}",
                    name.len()
                ))
                .at(text.span.clone());
            return;
        }
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.problems
                .error(format!(
                    "{name:?} is not an application protocol: only printable ASCII without spaces is supported"
                ))
                .at(text.span.clone());
            return;
        }
        if let Some((_, first)) = seen.iter().find(|(earlier, _)| *earlier == name) {
            self.problems
                .warning(format!("`alpn` names {name:?} twice"))
                .at(text.span.clone())
                .related(first.clone(), "first here");
            return;
        }
        if let Some(meant) = meant(name) {
            self.problems
                .warning(format!(
                    "no client offers the application protocol {name:?}"
                ))
                .at(text.span.clone())
                .help(format!("the registered name is {meant:?}"));
        }
        seen.push((name, text.span.clone()));
    }
}

/// The registered name that is probably meant by a wrong name.
fn meant(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, meant)) = MISTAKES.iter().find(|(wrong, _)| *wrong == lower) {
        return Some(meant);
    }
    // Names are case-sensitive, so `HTTP/1.1` is a mistake.
    let registered = ["http/1.1", "h2", "postgresql"];
    registered
        .into_iter()
        .find(|known| *known == lower && *known != name)
}
