//! Application protocols: names that TLS negotiates by ALPN (RFC 7301).

use std::ops::Range;

use super::load::Loader;
use crate::config::raw::value::{At, OneOrMany};

/// Protocol names in order of preference. Empty: none are negotiated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alpn(Vec<String>);

impl Alpn {
    /// The protocol of PostgreSQL.
    pub fn postgresql() -> Self {
        Self(vec!["postgresql".to_owned()])
    }

    /// No protocol is negotiated.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether `name` is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    /// The names as rustls takes them.
    pub fn protocols(&self) -> Vec<Vec<u8>> {
        self.names().map(|name| name.as_bytes().to_vec()).collect()
    }
}

/// The longest name that the extension can hold.
const MAX_LENGTH: usize = 255;

/// Names that are written by mistake, and the registered ones.
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
    /// The protocols of `alpn`. What is wrong with it is reported.
    pub(super) fn alpn(&mut self, alpn: Option<&At<OneOrMany>>) -> Alpn {
        let Some(at) = alpn else {
            return Alpn::default();
        };
        let texts = at.each();
        if texts.is_empty() {
            self.problems
                .error("`alpn` is an empty list")
                .at(at.span.clone())
                .help("remove the key to negotiate no application protocol");
        }
        let mut seen: Vec<(&str, Range<usize>)> = Vec::new();
        for text in &texts {
            self.protocol(text, &mut seen);
        }
        Alpn(seen.iter().map(|(name, _)| (*name).to_owned()).collect())
    }

    fn protocol<'a>(&mut self, text: &At<&'a str>, seen: &mut Vec<(&'a str, Range<usize>)>) {
        let name = text.value;
        if name.is_empty() || name.len() > MAX_LENGTH {
            self.problems
                .error(format!(
                    "an application protocol has 1 to {MAX_LENGTH} bytes, and this has {}",
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

/// The registered name that a wrong one stands for.
fn meant(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, meant)) = MISTAKES.iter().find(|(wrong, _)| *wrong == lower) {
        return Some(meant);
    }
    // Names are compared byte by byte.
    let registered = ["http/1.1", "h2", "postgresql"];
    registered
        .into_iter()
        .find(|known| *known == lower && *known != name)
}
