//! Application-Layer Protocol Negotiation (RFC 7301).

/// Protocol names in order of preference. If the list is empty, ALPN is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alpn(Vec<String>);

impl Alpn {
    /// Creates the list. Each name must be 1 to 255 bytes long, and no name may occur twice.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// The list for PostgreSQL, whose clients offer only the protocol `postgresql`.
    pub fn postgresql() -> Self {
        Self(vec!["postgresql".to_owned()])
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    /// The names as byte strings, as rustls expects them.
    pub fn protocols(&self) -> Vec<Vec<u8>> {
        self.names().map(|name| name.as_bytes().to_vec()).collect()
    }
}
