//! Server addresses: host and port, or the path of a UNIX socket.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    str::FromStr,
    sync::Arc,
};

/// A server's address: `10.0.0.7:80`, `[::1]:80`, `webapp1:80` or `unix:/run/app.sock`.
///
/// Parsing does not resolve host names. They are resolved when a connection is opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A host name and a port.
    Name {
        /// The unresolved host name.
        host: Arc<str>,
        /// The TCP port.
        port: u16,
    },
    /// The path of a UNIX stream socket.
    Unix(Arc<Path>),
}

const UNIX_PREFIX: &str = "unix:";

/// Maximum length of a UNIX socket path: `sun_path` without the terminating NUL.
const MAX_PATH: usize = 107;

impl Address {
    /// Returns the port, or `None` for a UNIX socket.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Name { port, .. } => Some(*port),
            Self::Unix(_) => None,
        }
    }

    /// Returns the address with another port. The address of a UNIX socket is returned unchanged.
    pub fn with_port(&self, port: u16) -> Self {
        match self {
            Self::Ip(address) => Self::Ip(SocketAddr::new(address.ip(), port)),
            Self::Name { host, .. } => Self::Name {
                host: Arc::clone(host),
                port,
            },
            Self::Unix(_) => self.clone(),
        }
    }

    /// Returns the host without the port, formatted for an HTTP `Host` header. For a UNIX socket,
    /// this is `localhost`.
    pub fn host(&self) -> String {
        match self {
            Self::Ip(SocketAddr::V6(address)) => format!("[{}]", address.ip()),
            Self::Ip(SocketAddr::V4(address)) => address.ip().to_string(),
            Self::Name { host, .. } => host.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

/// A server address could not be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The text is a URL.
    #[error("a URL is not accepted: write HOST:PORT, for example `webapp1:80`")]
    Url,
    /// There is no `:PORT` at the end.
    #[error("the port is missing: write HOST:PORT, for example `webapp1:80`")]
    MissingPort,
    /// The text after the last `:` is not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    InvalidPort,
    /// The text is an IPv6 address without brackets, so the port is ambiguous.
    #[error("an IPv6 address is written in brackets: `[::1]:80`")]
    UnbracketedV6,
    /// The text in brackets is not an IPv6 address.
    #[error("the text in brackets is not an IPv6 address")]
    InvalidV6,
    /// The host is empty, too long, or contains characters that are not allowed in a host name.
    #[error("not a host name: use letters, digits, `-`, `_` and `.`, at most 63 per label")]
    InvalidHost,
    /// The path of a UNIX socket is empty, too long, or contains a NUL.
    #[error("the path of a UNIX socket must have 1 to {MAX_PATH} bytes and no NUL")]
    InvalidPath,
}

impl Address {
    /// Adds the brackets that are missing in `ADDRESS:PORT` for an IPv6 address. Returns `None` for
    /// any other text.
    ///
    /// ```
    /// use leastconn::Address;
    ///
    /// assert_eq!(Address::bracketed("::1:8080").as_deref(), Some("[::1]:8080"));
    /// assert_eq!(Address::bracketed("web:8080"), None);
    /// ```
    pub fn bracketed(text: &str) -> Option<String> {
        let (host, port) = text.rsplit_once(':')?;
        let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        (is_v6 && port.parse::<u16>().is_ok()).then(|| format!("[{host}]:{port}"))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            return match path.len() {
                1..=MAX_PATH if !path.contains('\0') => Ok(Self::Unix(Path::new(path).into())),
                _ => Err(AddressError::InvalidPath),
            };
        }
        if text.contains("://") {
            return Err(AddressError::Url);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::MissingPort)?;
        if text.starts_with('[') && text.ends_with(']') {
            return Err(AddressError::MissingPort);
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            // Several colons and no brackets: the port in `::1` or `fe80::1:80` is ambiguous.
            return Err(AddressError::UnbracketedV6);
        }
        let port = parse_port(port)?;
        if let Some(v6) = host.strip_prefix('[') {
            let v6 = v6.strip_suffix(']').ok_or(AddressError::InvalidV6)?;
            let ip = v6.parse().map_err(|_| AddressError::InvalidV6)?;
            return Ok(Self::Ip(SocketAddr::new(IpAddr::V6(ip), port)));
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self::Ip(SocketAddr::new(ip, port)));
        }
        if !is_host_name(host) {
            return Err(AddressError::InvalidHost);
        }
        Ok(Self::Name {
            host: host.into(),
            port,
        })
    }
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    // `u16::from_str` would accept a leading `+`.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(AddressError::InvalidPort),
    }
}

/// Whether `host` is a host name according to RFC 1123. `_` is also allowed, because container
/// names contain it. Names that consist only of digits and dots are rejected as malformed IPv4
/// addresses.
fn is_host_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    (1..=253).contains(&labels.len())
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        && !labels.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_ip_addresses_names_and_paths() {
        for text in [
            "127.0.0.1:80",
            "[::1]:8080",
            "webapp1:80",
            "db_1.internal:5432",
            "unix:/run/app.sock",
            "unix:app.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn reports_why_parsing_failed() {
        for (text, error) in [
            ("webapp1", AddressError::MissingPort),
            ("webapp1:", AddressError::InvalidPort),
            ("webapp1:+80", AddressError::InvalidPort),
            ("webapp1:0", AddressError::InvalidPort),
            ("webapp1:65536", AddressError::InvalidPort),
            ("::1", AddressError::UnbracketedV6),
            ("fe80::1:80", AddressError::UnbracketedV6),
            ("[nonsense]:80", AddressError::InvalidV6),
            (":80", AddressError::InvalidHost),
            ("256.1.1.1:80", AddressError::InvalidHost),
            ("a b:80", AddressError::InvalidHost),
            ("unix:", AddressError::InvalidPath),
            ("unix:/a\0b", AddressError::InvalidPath),
            ("http://web:80", AddressError::Url),
            ("tcp://web", AddressError::Url),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}
