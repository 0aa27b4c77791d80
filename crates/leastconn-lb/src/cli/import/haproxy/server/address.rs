//! Addresses of servers: fixed, or discovered in DNS.

use super::{
    super::super::{
        address::{bracketed, is_host, is_ip, is_variable, split_port},
        model::Value,
        toml::VARIABLE_START,
    },
    Line, Server,
};

/// The address of a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `HOST:PORT` or `unix:PATH`.
    Fixed(String),
    /// `HOST:PORT` with a host name.
    Named(String),
    /// The name of SRV records.
    Service(String),
}

impl Address {
    /// Parses an address of a `server` line.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let prefixes = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"];
        let bare = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
        let text = bare.unwrap_or(text);
        if let Some(path) = text
            .strip_prefix("unix@")
            .or(text.starts_with('/').then_some(text))
        {
            return Some(Self::Fixed(format!("unix:{path}")));
        }
        if is_variable(text) {
            return Some(Self::Fixed(text.to_owned()));
        }
        let (host, port) = split_port(text).unwrap_or((text, ""));
        if text.starts_with('_') && (port.is_empty() || port == "0") {
            return Some(Self::Service(host.to_owned()));
        }
        let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let is_port = port.contains(VARIABLE_START)
            || (is_number && port.parse::<u16>().is_ok_and(|port| port > 0));
        if host.is_empty() || !is_port || text.contains('@') {
            return None;
        }
        if host.contains(VARIABLE_START) {
            return Some(Self::Fixed(format!("{host}:{port}")));
        }
        if !is_host(host) {
            return None;
        }
        let address = format!("{}:{port}", bracketed(host));
        Some(if is_ip(host) {
            Self::Fixed(address)
        } else {
            Self::Named(address)
        })
    }
}

/// Sets the address of a server. Servers with SRV records, and servers whose `resolvers` section
/// has name servers, are discovered, and those of a `server-template`.
pub(super) fn set(
    server: &mut Server,
    line: &Line,
    resolvers: &dyn Fn(&str) -> bool,
    port: Option<u16>,
) {
    let given = line.word(2);
    let with_port = port.and_then(|port| with_port(given, port));
    let text = with_port.as_deref().unwrap_or(given);
    let is_template = line.word(0) == "server-template";
    let uses_resolvers = server.resolvers.as_deref().is_some_and(resolvers);
    let (key, value) = match Address::parse(text) {
        Some(Address::Service(name)) => ("srv", name),
        Some(Address::Named(address)) if is_template || uses_resolvers => ("dns", address),
        Some(Address::Fixed(address) | Address::Named(address)) => ("address", address),
        None => {
            let reason = format!("the address {text:?} needs a host and a port");
            server.left_out = Some(line.place.left_out(reason));
            return;
        }
    };
    server.table.set(key, Value::text(value));
    match key {
        "address" => {}
        "dns" if !is_template => server.notes.push(line.place.remark(
            "each address of the host name is a server, and its name is the address; HAProxy \
             uses one of the addresses",
        )),
        _ => server
            .notes
            .push(line.place.remark("the names of the servers come from DNS")),
    }
}

/// Returns an address with the port of the listener, plus the offset in `HOST:+OFFSET`. Returns
/// `None` if the address has a port.
fn with_port(text: &str, port: u16) -> Option<String> {
    if text.starts_with(['/', '_']) || text.contains(['@', VARIABLE_START]) {
        return None;
    }
    if is_ip(text) {
        return Some(format!("{}:{port}", bracketed(text)));
    }
    match split_port(text) {
        None | Some((_, "" | "0")) => {
            let host = text.split(':').next().unwrap_or(text);
            Some(format!("{host}:{port}"))
        }
        Some((host, offset)) => {
            let offset: i32 = offset
                .starts_with(['+', '-'])
                .then(|| offset.parse().ok())??;
            let port = u16::try_from(i32::from(port).checked_add(offset)?).ok()?;
            Some(format!("{host}:{port}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, with_port};

    #[test]
    fn missing_ports_are_those_of_the_listener() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1:80")),
            ("2001:db8::1", Some("[2001:db8::1]:80")),
            ("[2001:db8::1]", Some("[2001:db8::1]:80")),
            ("a.x", Some("a.x:80")),
            ("a.x:0", Some("a.x:80")),
            ("a.x:+100", Some("a.x:180")),
            ("a.x:-70", Some("a.x:10")),
            ("a.x:-90", None),
            ("a.x:443", None),
            ("/run/x.sock", None),
            ("_db._tcp.a.x", None),
        ] {
            assert_eq!(with_port(text, 80).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn notations_of_addresses() {
        let fixed = |text: &str| Some(Address::Fixed(text.to_owned()));
        for (text, expected) in [
            ("10.0.0.1:80", fixed("10.0.0.1:80")),
            ("ipv6@2001:db8::1:80", fixed("[2001:db8::1]:80")),
            ("/run/x.sock", fixed("unix:/run/x.sock")),
            ("\u{1}HOST\u{2}:80", fixed("\u{1}HOST\u{2}:80")),
            ("\u{1}ADDRESS:-a:80\u{2}", fixed("\u{1}ADDRESS:-a:80\u{2}")),
            ("a.x:80", Some(Address::Named("a.x:80".to_owned()))),
            (
                "_db._tcp.a.x",
                Some(Address::Service("_db._tcp.a.x".to_owned())),
            ),
            ("a.x", None),
            ("10.0.0.1:0", None),
            ("10.0.0.1:+5", None),
            ("a.${X}.x:80", None),
            ("abns@x:80", None),
        ] {
            assert_eq!(Address::parse(text), expected, "{text}");
        }
    }
}
