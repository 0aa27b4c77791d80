//! The imported configuration with its comments, independent of the source program.

use std::rc::Rc;

use super::access::{List, Predicate, Verdict};

/// A value of a key in the written configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Integer(u64),
    Float(f64),
    Boolean(bool),
    List(Vec<Self>),
    Table(Vec<(&'static str, Self)>),
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Returns one string, or a list of strings if there are several.
    pub(crate) fn strings(texts: &[String]) -> Self {
        match texts {
            [one] => Self::text(one),
            many => Self::list(many),
        }
    }

    pub(crate) fn list(texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }
}

/// A directive in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Rc<str>,
    /// Line number, starting at 1.
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// How a directive was translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The directive has no equivalent, or only one that behaves differently. The exit code is 1.
    LeftOut,
    /// The directive has an equivalent that behaves differently. The exit code is 1.
    Differs,
    /// The directive needs no equivalent, or the translation needs an explanation.
    Remark,
}

/// A comment in the written configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    pub(crate) reason: String,
    /// Shell commands that must run before the configuration can be used.
    pub(crate) commands: Vec<String>,
}

impl Note {
    pub(crate) fn with_commands(mut self, commands: Vec<String>) -> Self {
        self.commands = commands;
        self
    }
}

impl Place {
    pub(crate) fn left_out(&self, reason: impl Into<String>) -> Note {
        self.note(Kind::LeftOut, reason)
    }

    pub(crate) fn differs(&self, reason: impl Into<String>) -> Note {
        self.note(Kind::Differs, reason)
    }

    pub(crate) fn remark(&self, reason: impl Into<String>) -> Note {
        self.note(Kind::Remark, reason)
    }

    pub(crate) fn note(&self, kind: Kind, reason: impl Into<String>) -> Note {
        Note {
            place: self.clone(),
            kind,
            reason: reason.into(),
            commands: Vec::new(),
        }
    }
}

/// A table of the written configuration: keys and the comments between them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub(crate) keys: Vec<(&'static str, Value)>,
    pub(crate) notes: Vec<Note>,
}

impl Table {
    /// Sets a key. Replaces an earlier value.
    pub(crate) fn set(&mut self, key: &'static str, value: Value) {
        match self.keys.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key, value)),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        let found = self.keys.iter().find(|(name, _)| *name == key);
        found.map(|(_, value)| value)
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.keys.retain(|(name, _)| *name != key);
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Sets `health_check` to `none`, because leastconn checks servers by default.
    pub(crate) fn disable_health_checks(&mut self) {
        let none = vec![("type", Value::text("none"))];
        self.set("health_check", Value::Table(none));
    }
}

/// Limits per client.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    pub(crate) rate: Option<Rate>,
    pub(crate) max_conns: Option<u64>,
}

impl Limits {
    /// Returns the stricter limit of each kind.
    pub(crate) fn stricter(self, other: Self) -> Self {
        let rate = match (self.rate, other.rate) {
            (Some(a), Some(b)) => Some(if b.rate < a.rate { b } else { a }),
            (a, b) => a.or(b),
        };
        let max_conns = match (self.max_conns, other.max_conns) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { rate, max_conns }
    }
}

/// A limit on new connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// New connections per second.
    pub(crate) rate: f64,
    pub(crate) burst: u64,
}

impl Rate {
    pub(crate) fn value(self) -> Value {
        Value::Table(vec![
            ("rate", Value::Float(self.rate)),
            ("burst", Value::Integer(self.burst)),
        ])
    }
}

/// Limits that apply to some clients of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Conditional {
    pub(crate) limits: Limits,
    /// Accepts the clients to which the limits apply, and refuses the others.
    pub(crate) applies: List,
    pub(crate) place: Place,
}

/// A listener, and the upstream of each of its clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// The line that defines the listener.
    pub(crate) place: Option<Place>,
    pub(crate) binds: Vec<String>,
    pub(crate) table: Table,
    pub(crate) tls: Option<Table>,
    /// Whether clients present verified certificates.
    pub(crate) certificates: bool,
    /// Restrictions in the source that have no equivalent. If there are any, no client may use the
    /// listener.
    pub(crate) refused: Vec<String>,
    /// The only server names (SNI) that are accepted. If there are none, all are.
    pub(crate) server_names: Vec<String>,
    /// The decision for each client.
    pub(crate) access: List,
    /// The decision for each client without the rules that have no equivalent, for comments at a
    /// listener that no client may use. Empty if it is the same as `access`.
    pub(crate) described: List,
    /// The decisions and limits of the source, if no client may use the listener.
    pub(crate) closed_rules: Vec<String>,
    /// The upstream that is configured if no client may use the listener.
    pub(crate) home: Option<String>,
    /// The targets in the source, if the listener could not be translated.
    pub(crate) targets: Vec<String>,
    pub(crate) limits: Limits,
    /// Limits that apply to some clients only.
    pub(crate) conditional: Vec<Conditional>,
    /// The `source_rate_limit` in `table`, with its line.
    pub(crate) source_rate: Option<(Rate, Place)>,
    /// The rate in `limits`, with its line.
    pub(crate) rate_of: Option<(Rate, Place)>,
    /// The directives that set `limits`.
    pub(crate) limited_by: Vec<Place>,
    /// The name of the counter for `limits`. Listeners with the same counter share their limits.
    pub(crate) counter: Option<String>,
}

impl Service {
    /// Whether these settings in `tls` of both listeners are the same.
    pub(crate) fn has_same_tls(&self, other: &Self, keys: &[&str]) -> bool {
        let value = |service: &Self, key: &str| service.tls.as_ref()?.get(key).cloned();
        keys.iter().all(|key| value(self, key) == value(other, key))
    }

    /// Lets every client reach `upstream`.
    pub(crate) fn open_to_all(&mut self, upstream: &str) {
        self.access = vec![(Predicate::default(), Verdict::To(upstream.to_owned()))];
        self.home = Some(upstream.to_owned());
    }
}

/// A server, or a comment in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ServerLine {
    Server { name: String, table: Table },
    Note(Note),
}

impl ServerLine {
    /// Whether the addresses, and thus the names, come from DNS.
    pub(crate) fn is_discovered(&self) -> bool {
        matches!(self, Self::Server { table, .. } if table.get("address").is_none())
    }
}

/// An upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) table: Table,
    pub(crate) tls: Option<Table>,
    pub(crate) servers: Vec<ServerLine>,
    /// Reasons why no client may use the upstream.
    pub(crate) refused: Vec<String>,
    /// Comments that do not refer to a line of the source.
    pub(crate) comments: Vec<String>,
    /// The line that defines the upstream.
    pub(crate) place: Option<Place>,
    /// The lines that set the keys of `table`. A dot precedes the keys of inline tables, as in
    /// `health_check.interval`.
    pub(crate) origins: Vec<(&'static str, Place)>,
}

impl Backend {
    pub(crate) fn has_servers(&self) -> bool {
        let mut lines = self.servers.iter();
        lines.any(|line| matches!(line, ServerLine::Server { .. }))
    }
}

/// The translation of a source file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Imported {
    /// Comments at the start of the file.
    pub(crate) notes: Vec<Note>,
    pub(crate) process: Table,
    pub(crate) log: Table,
    pub(crate) admin: Table,
    pub(crate) services: Vec<Service>,
    pub(crate) backends: Vec<Backend>,
}
