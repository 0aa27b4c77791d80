//! `listen` lines.

use super::{
    super::{
        address::{is_ip, with_ports},
        model::{Table, Value},
        units,
    },
    parser::Directive,
};

/// A listening address with its options.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listen {
    /// A name for the listener: `port-443`.
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) tls: bool,
    pub(crate) proxy_protocol: bool,
    pub(crate) is_default: bool,
    pub(crate) table: Table,
}

impl Listen {
    /// Adds the options that other `listen` lines set for the same address.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tls |= other.tls;
        self.proxy_protocol |= other.proxy_protocol;
        for (key, value) in &other.table.keys {
            if self.table.get(key).is_none() {
                self.table.set(key, value.clone());
            }
        }
        for note in &other.table.notes {
            if !self.table.notes.contains(note) {
                self.table.note(note.clone());
            }
        }
    }

    /// Whether both addresses can belong to one listener.
    pub(crate) fn same_settings(&self, other: &Self) -> bool {
        (self.tls, self.proxy_protocol) == (other.tls, other.proxy_protocol)
            && self.table.keys == other.table.keys
    }
}

pub(crate) fn is_udp(line: &Directive) -> bool {
    line.name() == "listen"
        && line
            .arguments()
            .iter()
            .skip(1)
            .any(|option| option == "udp")
}

pub(crate) fn listen(line: &Directive) -> Listen {
    let place = &line.place;
    let address = line.word(1);
    let port = address.rsplit([':', '/']).next().unwrap_or(address);
    let first = port.split('-').next().unwrap_or(port);
    let mut listen = Listen {
        name: format!("port-{first}"),
        ..Listen::default()
    };
    match addresses(address) {
        Ok(list) => listen.addresses = list,
        Err(reason) => listen.table.note(place.left_out(reason)),
    }
    for option in line.arguments().iter().skip(1) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "ssl" => listen.tls = true,
            "proxy_protocol" => {
                listen.proxy_protocol = true;
                listen.table.set("proxy_protocol", Value::text("required"));
            }
            "so_keepalive" => {
                let idle = value.split(':').next().unwrap_or("");
                if let Some(ms) = units::milliseconds(idle, 1000) {
                    listen.table.set("keepalive", units::duration(ms));
                }
            }
            "backlog" => listen
                .table
                .note(place.left_out(format!("{option:?} has no equivalent"))),
            "default_server" => listen.is_default = true,
            "reuseport" | "bind" | "deferred" | "fastopen" | "rcvbuf" | "sndbuf" | "ipv6only" => {}
            _ => listen
                .table
                .note(place.left_out(format!("{option:?} has no equivalent"))),
        }
    }
    listen
}

fn addresses(text: &str) -> Result<Vec<String>, String> {
    if text.starts_with("unix:") {
        return Ok(vec![text.to_owned()]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ if text.chars().all(|c| c.is_ascii_digit() || c == '-') => ("*", text),
        _ => return Err(format!("{text:?} has no port")),
    };
    let host = match host {
        "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        host => host,
    };
    if !is_ip(host) {
        return Err(format!(
            "{host:?} is not an IP address; names are not resolved for listeners"
        ));
    }
    with_ports(host, port).ok_or_else(|| format!("the ports {port:?} are not supported"))
}
