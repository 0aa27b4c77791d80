//! The address of a client behind a proxy: `listen … proxy_protocol` and `set_real_ip_from`.

use super::{
    super::{
        model::{Service, Value},
        networks::network,
    },
    parser::Directive,
    settings::Settings,
};

/// The address that nginx compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Client,
    /// The address of the proxy, because no proxy is trusted. leastconn compares the address in the
    /// PROXY header, which a client can choose.
    Proxy,
}

/// Translates `set_real_ip_from` of a listener with `proxy_protocol`.
pub(super) fn trusted(service: &mut Service, settings: Settings<'_>) -> Address {
    let mut networks = Vec::new();
    for line in settings.all(&["set_real_ip_from"]) {
        match network(line.word(1)) {
            Some(network) => networks.push(network.to_string()),
            None => service.table.note(line.place.left_out(format!(
                "{:?} is not an IP network: `proxy_protocol_from` contains networks only",
                line.word(1)
            ))),
        }
    }
    if networks.is_empty() {
        return Address::Proxy;
    }
    let networks = Value::strings(&networks);
    service.table.set("proxy_protocol_from", networks);
    Address::Client
}

/// Lets no client use the listener, because a directive compares the address of the proxy.
pub(super) fn refuse(service: &mut Service, line: &Directive, what: &str) {
    let reason = format!("{what} the address of the proxy");
    service.table.note(line.place.left_out(format!(
        "{reason}, but client rules and limits apply to the address in the PROXY header"
    )));
    service.refused.push(reason);
}
